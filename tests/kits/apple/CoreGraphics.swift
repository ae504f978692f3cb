// Core Graphics: images whose pixels are drawn at their own size, in their own
// color space or in sRGB.
@_exported import AppleBasics

public enum CGColorSpaceModel: Int32, Sendable {
    case unknown = -1
    case monochrome, rgb, cmyk, lab, deviceN, indexed, pattern, XYZ
}

public final class CGColorSpace {
    public static let sRGB: CFString = "kCGColorSpaceSRGB"
    public let model: CGColorSpaceModel

    public init?(name: CFString) {
        guard name == CGColorSpace.sRGB else { return nil }
        model = .rgb
    }

    public init(gray: Void) {
        model = .monochrome
    }
}

public enum CGImageAlphaInfo: UInt32, Sendable {
    case none, premultipliedLast, premultipliedFirst, last, first
    case noneSkipLast, noneSkipFirst, alphaOnly
}

public struct CGBitmapInfo: OptionSet, Sendable {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    public static let byteOrder32Little = CGBitmapInfo(rawValue: 2 << 12)
}

public enum CGInterpolationQuality: Int32, Sendable {
    case `default`, none, low, high, medium
}

public final class CGImage {
    public let width: Int
    public let height: Int
    public let colorSpace: CGColorSpace?
    /// R G B, or one gray.
    public let pixels: [UInt8]

    public init(width: Int, height: Int, colorSpace: CGColorSpace?, pixels: [UInt8]) {
        self.width = width
        self.height = height
        self.colorSpace = colorSpace
        self.pixels = pixels
    }
}

public final class CGContext {
    public var interpolationQuality = CGInterpolationQuality.default
    private let memory: UnsafeMutableRawPointer
    private let (width, height, bytesPerRow): (Int, Int, Int)
    private let isGray: Bool

    public init?(
        data: UnsafeMutableRawPointer?, width: Int, height: Int, bitsPerComponent: Int,
        bytesPerRow: Int, space: CGColorSpace, bitmapInfo: UInt32
    ) {
        isGray = space.model == .monochrome
        let wanted =
            isGray
            ? CGImageAlphaInfo.none.rawValue
            : CGImageAlphaInfo.noneSkipFirst.rawValue | CGBitmapInfo.byteOrder32Little.rawValue
        guard let data = data, bitsPerComponent == 8, bitmapInfo == wanted else { return nil }
        memory = data
        (self.width, self.height, self.bytesPerRow) = (width, height, bytesPerRow)
    }

    public func draw(_ image: CGImage, in rect: CGRect, byTiling: Bool = false) {
        precondition(rect == CGRect(x: 0, y: 0, width: width, height: height))
        precondition((image.width, image.height) == (width, height))
        let bytes = memory.assumingMemoryBound(to: UInt8.self)
        for y in 0..<height {
            for x in 0..<width {
                let source = y * width + x
                if isGray {
                    bytes[y * bytesPerRow + x] = image.pixels[source]
                    continue
                }
                for channel in 0..<3 {
                    bytes[y * bytesPerRow + 4 * x + channel] =
                        image.pixels[3 * source + 2 - channel]
                }
                bytes[y * bytesPerRow + 4 * x + 3] = 255
            }
        }
    }
}
