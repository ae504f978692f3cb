// Core Graphics: images whose pixels are drawn at their own size, in their own
// color space or in sRGB.
@_exported import AppleBasics

public enum CGColorSpaceModel: Int32, Sendable {
    case unknown = -1
    case monochrome, rgb, cmyk, lab, deviceN, indexed, pattern, XYZ
}

public final class CGColorSpace: Sendable {
    public static let sRGB: CFString = "kCGColorSpaceSRGB"
    public static let standard = CGColorSpace(model: .rgb)
    public let model: CGColorSpaceModel

    init(model: CGColorSpaceModel) {
        self.model = model
    }

    public convenience init?(name: CFString) {
        guard name == CGColorSpace.sRGB else { return nil }
        self.init(model: .rgb)
    }

    public convenience init(gray: Void) {
        self.init(model: .monochrome)
    }
}

public enum CGImageAlphaInfo: UInt32, Sendable {
    case none, premultipliedLast, premultipliedFirst, last, first
    case noneSkipLast, noneSkipFirst, alphaOnly
}

public struct CGBitmapInfo: OptionSet, Sendable {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    public static let alphaInfoMask = CGBitmapInfo(rawValue: 0x1F)
    public static let byteOrder32Little = CGBitmapInfo(rawValue: 2 << 12)
}

public enum CGInterpolationQuality: Int32, Sendable {
    case `default`, none, low, high, medium
}

public enum CGColorRenderingIntent: Int32, Sendable {
    case defaultIntent
}

public final class CGDataProvider: Sendable {
    public let data: CFData?

    public init?(data: CFData) {
        self.data = data
    }
}

/// Channels of 8 bits, alpha last: R G B [A] or gray [A]. As in Apple's SDK,
/// it is Sendable.
public final class CGImage: Sendable {
    public let width: Int
    public let height: Int
    public let bitsPerComponent = 8
    public let bitsPerPixel: Int
    public let bytesPerRow: Int
    public let colorSpace: CGColorSpace?
    public let bitmapInfo: CGBitmapInfo
    public let dataProvider: CGDataProvider?
    public var decode: UnsafePointer<CGFloat>? { nil }
    public let renderingIntent = CGColorRenderingIntent.defaultIntent
    public var alphaInfo: CGImageAlphaInfo {
        CGImageAlphaInfo(rawValue: bitmapInfo.rawValue & CGBitmapInfo.alphaInfoMask.rawValue)!
    }

    public init?(
        width: Int, height: Int, bitsPerComponent: Int, bitsPerPixel: Int, bytesPerRow: Int,
        space: CGColorSpace, bitmapInfo: CGBitmapInfo, provider: CGDataProvider,
        decode: UnsafePointer<CGFloat>?, shouldInterpolate: Bool, intent: CGColorRenderingIntent
    ) {
        guard bitsPerComponent == 8 else { return nil }
        (self.width, self.height) = (width, height)
        (self.bitsPerPixel, self.bytesPerRow) = (bitsPerPixel, bytesPerRow)
        (colorSpace, self.bitmapInfo, dataProvider) = (space, bitmapInfo, provider)
    }

    public convenience init(
        width: Int, height: Int, channels: Int, space: CGColorSpace, alpha: CGImageAlphaInfo,
        pixels: Data
    ) {
        self.init(
            width: width, height: height, bitsPerComponent: 8, bitsPerPixel: 8 * channels,
            bytesPerRow: width * channels, space: space,
            bitmapInfo: CGBitmapInfo(rawValue: alpha.rawValue),
            provider: CGDataProvider(data: Data(pixels))!, decode: nil, shouldInterpolate: false,
            intent: .defaultIntent)!
    }
}

public final class CGContext {
    public var interpolationQuality = CGInterpolationQuality.default
    private let memory: UnsafeMutablePointer<UInt8>
    private let (width, height, bytesPerRow): (Int, Int, Int)
    private let alpha: CGImageAlphaInfo

    public init?(
        data: UnsafeMutableRawPointer?, width: Int, height: Int, bitsPerComponent: Int,
        bytesPerRow: Int, space: CGColorSpace, bitmapInfo: UInt32
    ) {
        let little = CGBitmapInfo.byteOrder32Little.rawValue
        let allowed: [CGImageAlphaInfo] =
            space.model == .monochrome ? [.none] : [.noneSkipFirst, .premultipliedFirst]
        let order = space.model == .monochrome ? 0 : little
        guard let data = data, bitsPerComponent == 8,
            let alpha = allowed.first(where: { $0.rawValue | order == bitmapInfo })
        else { return nil }
        memory = data.assumingMemoryBound(to: UInt8.self)
        self.alpha = alpha
        (self.width, self.height, self.bytesPerRow) = (width, height, bytesPerRow)
    }

    public func draw(_ image: CGImage, in rect: CGRect, byTiling: Bool = false) {
        precondition(rect == CGRect(x: 0, y: 0, width: width, height: height))
        precondition((image.width, image.height) == (width, height))
        let channels = image.bitsPerPixel / 8
        (image.dataProvider?.data ?? Data()).withUnsafeBytes { source in
            for y in 0..<height {
                for x in 0..<width {
                    draw(
                        UnsafeRawBufferPointer(
                            rebasing: source[(y * image.bytesPerRow + x * channels)...]
                                .prefix(channels)),
                        image.alphaInfo, memory + y * bytesPerRow + x * (alpha == .none ? 1 : 4))
                }
            }
        }
    }

    /// Over the black that is there, as Core Graphics does.
    private func draw(
        _ pixel: UnsafeRawBufferPointer, _ kind: CGImageAlphaInfo,
        _ target: UnsafeMutablePointer<UInt8>
    ) {
        let hasAlpha = [.last, .premultipliedLast].contains(kind)
        let cover = hasAlpha ? Int(pixel[pixel.count - 1]) : 255
        let colors = kind == .none ? pixel.count : pixel.count - 1
        for channel in 0..<colors {
            let value = Int(pixel[channel])
            let drawn = kind == .last ? (value * cover + 127) / 255 : value
            target[alpha == .none ? channel : 2 - channel] = UInt8(drawn)
        }
        if alpha != .none {
            target[3] = alpha == .premultipliedFirst ? UInt8(cover) : 255
        }
    }
}
