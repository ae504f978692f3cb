import CoreGraphics
import CoreVideo
import Foundation
import ImageIO

#if canImport(UIKit)
    import UIKit
#endif

/// An image to classify, of any size, from wherever an app has it.
///
/// It may go to another thread, as from a view model on the main actor to the
/// predictor. Nothing is decoded before the predictor does.
public struct InputImage: Sendable {
    /// Images never change, and nobody else has a frame that was given away.
    private enum Source: @unchecked Sendable {
        case image(CGImage, CGImagePropertyOrientation)
        case frame(CVPixelBuffer, CGImagePropertyOrientation)
        case data(Data)
        case file(URL)
        case none(String)
    }

    private let source: Source

    /// - Parameter orientation: as the photo's metadata state it; a `CGImage`
    ///   does not know its own.
    public static func cgImage(
        _ image: CGImage, orientation: CGImagePropertyOrientation = .up
    ) -> InputImage {
        InputImage(source: .image(image, orientation))
    }

    /// The content of an image file, turned as its metadata say.
    public static func data(_ data: Data) -> InputImage {
        InputImage(source: .data(data))
    }

    /// An image file, turned as its metadata say.
    public static func file(_ url: URL) -> InputImage {
        InputImage(source: .file(url))
    }

    #if compiler(>=6.0)
        /// A camera's frame, which is given away: who still has it must not
        /// write into it.
        public static func frame(
            _ buffer: sending CVPixelBuffer, orientation: CGImagePropertyOrientation = .up
        ) -> InputImage {
            InputImage(source: .frame(buffer, orientation))
        }
    #else
        /// A camera's frame, which is given away: who still has it must not
        /// write into it.
        public static func frame(
            _ buffer: CVPixelBuffer, orientation: CGImagePropertyOrientation = .up
        ) -> InputImage {
            InputImage(source: .frame(buffer, orientation))
        }
    #endif

    #if canImport(UIKit)
        /// With its orientation.
        public static func uiImage(_ image: UIImage) -> InputImage {
            guard let pixels = image.cgImage else {
                return InputImage(source: .none("the UIImage is not made of a CGImage"))
            }
            return .cgImage(pixels, orientation: orientation(image.imageOrientation))
        }

        private static func orientation(
            _ found: UIImage.Orientation
        ) -> CGImagePropertyOrientation {
            switch found {
            case .up: return .up
            case .upMirrored: return .upMirrored
            case .down: return .down
            case .downMirrored: return .downMirrored
            case .left: return .left
            case .leftMirrored: return .leftMirrored
            case .right: return .right
            case .rightMirrored: return .rightMirrored
            @unknown default: return .up
            }
        }
    #endif

    /// The pixels, upright, in the model's channels. Slow for a large photo:
    /// not for the main thread.
    public func pixels() throws -> PixelImage {
        switch source {
        case .image(let image, let orientation):
            return try PixelImage(cgImage: image, orientation: orientation)
        case .frame(let buffer, let orientation):
            return try PixelImage(pixelBuffer: buffer).upright(from: orientation)
        case .data(let data):
            return try Self.decoded(
                CGImageSourceCreateWithData(data as CFData, nil), "\(data.count) bytes of data")
        case .file(let url):
            return try Self.decoded(
                CGImageSourceCreateWithURL(url as CFURL, nil), url.lastPathComponent)
        case .none(let reason):
            throw PredictorError.unreadableImage(reason)
        }
    }

    private static func decoded(_ source: CGImageSource?, _ name: String) throws -> PixelImage {
        guard let source = source, let image = CGImageSourceCreateImageAtIndex(source, 0, nil)
        else {
            throw PredictorError.unreadableImage("\(name) hold no image")
        }
        let found = CGImageSourceCopyPropertiesAtIndex(source, 0, nil) as? [CFString: Any]
        let turn = (found?[kCGImagePropertyOrientation] as? NSNumber)?.uint32Value
        let orientation = turn.flatMap { CGImagePropertyOrientation(rawValue: $0) }
        return try PixelImage(cgImage: image, orientation: orientation ?? .up)
    }
}
