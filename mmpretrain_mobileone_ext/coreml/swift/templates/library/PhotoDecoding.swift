import CoreGraphics
import Foundation
import ImageIO

extension PixelImage {
    /// The pixels of an image, upright, in the model's channels.
    ///
    /// Color is converted to sRGB, in which networks are trained; an sRGB image
    /// keeps its values. A gray image keeps its values in any case. Where an
    /// image is transparent, it is drawn on black.
    public init(cgImage: CGImage, orientation: CGImagePropertyOrientation = .up) throws {
        let drawn: PixelImage
        if let space = cgImage.colorSpace, space.model == .monochrome {
            drawn = try Self.drawn(
                cgImage, space: space, channels: 1, info: CGImageAlphaInfo.none.rawValue)
        } else {
            guard let space = CGColorSpace(name: CGColorSpace.sRGB) else {
                throw PredictorError.unreadableImage("the system has no color space sRGB")
            }
            let info =
                CGImageAlphaInfo.noneSkipFirst.rawValue
                | CGBitmapInfo.byteOrder32Little.rawValue
            drawn = try Self.drawn(cgImage, space: space, channels: 4, info: info)
        }
        self = drawn.converted(to: ModelInfo.colorLayout.channels).upright(from: orientation)
    }

    /// At its own size, so that no pixel is interpolated.
    private static func drawn(
        _ image: CGImage, space: CGColorSpace, channels: Int, info: UInt32
    ) throws -> PixelImage {
        let (width, height) = (image.width, image.height)
        var bytes = [UInt8](repeating: 0, count: width * height * channels)
        let done = bytes.withUnsafeMutableBytes { buffer -> Bool in
            guard
                let context = CGContext(
                    data: buffer.baseAddress, width: width, height: height, bitsPerComponent: 8,
                    bytesPerRow: width * channels, space: space, bitmapInfo: info)
            else {
                return false
            }
            context.interpolationQuality = .none
            context.draw(image, in: CGRect(x: 0, y: 0, width: width, height: height))
            return true
        }
        guard done else {
            throw PredictorError.unreadableImage(
                "\(width) x \(height) pixels cannot be drawn with 8 bits a channel")
        }
        return PixelImage(width: width, height: height, channels: channels, bytes: bytes)
    }

    /// Undoes an orientation as EXIF states it.
    func upright(from orientation: CGImagePropertyOrientation) -> PixelImage {
        guard let turn = Turn(orientation) else { return self }
        let (wide, high) = turn.swaps ? (height, width) : (width, height)
        var found = [UInt8](repeating: 0, count: bytes.count)
        for y in 0..<high {
            for x in 0..<wide {
                let across = turn.swaps ? y : x
                let down = turn.swaps ? x : y
                let column = turn.fromRight ? width - 1 - across : across
                let row = turn.fromBottom ? height - 1 - down : down
                let (target, source) = (
                    (y * wide + x) * channels, (row * width + column) * channels
                )
                for channel in 0..<channels {
                    found[target + channel] = bytes[source + channel]
                }
            }
        }
        return PixelImage(width: wide, height: high, channels: channels, bytes: found)
    }

    /// Where the upright image finds its pixels in the stored one.
    private struct Turn {
        /// Columns of the upright image are rows of the stored one.
        let swaps: Bool
        /// Stored columns are counted from the right, rows from the bottom.
        let fromRight: Bool
        let fromBottom: Bool

        /// nil where the image is upright already.
        init?(_ orientation: CGImagePropertyOrientation) {
            switch orientation {
            case .up: return nil
            case .upMirrored: (swaps, fromRight, fromBottom) = (false, true, false)
            case .down: (swaps, fromRight, fromBottom) = (false, true, true)
            case .downMirrored: (swaps, fromRight, fromBottom) = (false, false, true)
            case .leftMirrored: (swaps, fromRight, fromBottom) = (true, false, false)
            case .right: (swaps, fromRight, fromBottom) = (true, false, true)
            case .rightMirrored: (swaps, fromRight, fromBottom) = (true, true, true)
            case .left: (swaps, fromRight, fromBottom) = (true, true, false)
            @unknown default: return nil
            }
        }
    }
}
