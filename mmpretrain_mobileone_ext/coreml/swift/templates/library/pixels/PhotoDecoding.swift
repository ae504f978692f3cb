import CoreGraphics
import Foundation
import ImageIO

extension PixelImage {
    /// The pixels of an image, upright, in the model's channels.
    ///
    /// Color is converted to sRGB, in which networks are trained; an sRGB image
    /// keeps its values. A gray image keeps its values in any case. As in the
    /// training, transparency is dropped: a pixel keeps its color, however
    /// little of it would be seen.
    public init(cgImage: CGImage, orientation: CGImagePropertyOrientation = .up) throws {
        let drawn =
            cgImage.colorSpace?.model == .monochrome
            ? try Self.gray(cgImage) : try Self.color(cgImage)
        self = drawn.converted(to: ModelInfo.colorLayout.channels).upright(from: orientation)
    }

    private static func gray(_ image: CGImage) throws -> PixelImage {
        if let found = grayBesideAlpha(image) {
            return found
        }
        guard let space = image.colorSpace else {
            throw PredictorError.unreadableImage("it has no color space")
        }
        return try drawn(image, space: space, channels: 1, info: CGImageAlphaInfo.none.rawValue)
    }

    /// Every other byte of an image of gray and alpha; nil for all others.
    private static func grayBesideAlpha(_ image: CGImage) -> PixelImage? {
        let (width, height, row) = (image.width, image.height, image.bytesPerRow)
        guard image.alphaInfo == .last, image.bitsPerComponent == 8, image.bitsPerPixel == 16,
            let data = image.dataProvider?.data as Data?,
            data.count >= (height - 1) * row + 2 * width
        else {
            return nil
        }
        let pairs = PixelImage(width: row, height: height, channels: 1) { target in
            data.copyBytes(to: target, count: min(data.count, row * height))
        }
        return pairs.picked(columns: (0..<width).map { 2 * $0 }, rows: Array(0..<height))
    }

    private static func color(_ image: CGImage) throws -> PixelImage {
        guard let space = CGColorSpace(name: CGColorSpace.sRGB) else {
            throw PredictorError.unreadableImage("the system has no color space sRGB")
        }
        let order = CGBitmapInfo.byteOrder32Little.rawValue
        if image.alphaInfo == .premultipliedFirst || image.alphaInfo == .premultipliedLast {
            var found = try drawn(
                image, space: space, channels: 4,
                info: CGImageAlphaInfo.premultipliedFirst.rawValue | order)
            found.unpremultiply()
            return found
        }
        return try drawn(
            opaque(image), space: space, channels: 4,
            info: CGImageAlphaInfo.noneSkipFirst.rawValue | order)
    }

    /// The same pixels, of which alpha says nothing.
    private static func opaque(_ image: CGImage) throws -> CGImage {
        let skipped: CGImageAlphaInfo
        switch image.alphaInfo {
        case .first: skipped = .noneSkipFirst
        case .last: skipped = .noneSkipLast
        default: return image
        }
        let rest = image.bitmapInfo.subtracting(.alphaInfoMask).rawValue
        guard let space = image.colorSpace, let provider = image.dataProvider,
            let found = CGImage(
                width: image.width, height: image.height,
                bitsPerComponent: image.bitsPerComponent, bitsPerPixel: image.bitsPerPixel,
                bytesPerRow: image.bytesPerRow, space: space,
                bitmapInfo: CGBitmapInfo(rawValue: rest | skipped.rawValue), provider: provider,
                decode: image.decode, shouldInterpolate: false, intent: image.renderingIntent)
        else {
            throw PredictorError.unreadableImage("its transparency cannot be dropped")
        }
        return found
    }

    /// At its own size, so that no pixel is interpolated.
    private static func drawn(
        _ image: CGImage, space: CGColorSpace, channels: Int, info: UInt32
    ) throws -> PixelImage {
        let (width, height) = (image.width, image.height)
        return try PixelImage(width: width, height: height, channels: channels) { target in
            // What is not drawn is black: the memory is not cleared before.
            target.initialize(repeating: 0, count: width * height * channels)
            guard
                let context = CGContext(
                    data: target, width: width, height: height, bitsPerComponent: 8,
                    bytesPerRow: width * channels, space: space, bitmapInfo: info)
            else {
                throw PredictorError.unreadableImage(
                    "\(width) x \(height) pixels cannot be drawn with 8 bits a channel")
            }
            context.interpolationQuality = .none
            context.draw(image, in: CGRect(x: 0, y: 0, width: width, height: height))
        }
    }

    /// Undoes an orientation as EXIF states it.
    func upright(from orientation: CGImagePropertyOrientation) -> PixelImage {
        switch orientation {
        case .up: return self
        case .upMirrored: return turned(swaps: false, fromRight: true, fromBottom: false)
        case .down: return turned(swaps: false, fromRight: true, fromBottom: true)
        case .downMirrored: return turned(swaps: false, fromRight: false, fromBottom: true)
        case .leftMirrored: return turned(swaps: true, fromRight: false, fromBottom: false)
        case .right: return turned(swaps: true, fromRight: false, fromBottom: true)
        case .rightMirrored: return turned(swaps: true, fromRight: true, fromBottom: true)
        case .left: return turned(swaps: true, fromRight: true, fromBottom: false)
        @unknown default: return self
        }
    }
}
