import CoreVideo
import Foundation

/// 8-bit pixels in rows without gaps: B G R A, or one gray.
public struct PixelImage: Equatable, Sendable {
    public let width: Int
    public let height: Int
    /// Bytes of one pixel, 4 or 1.
    let channels: Int
    var bytes: [UInt8]

    init(width: Int, height: Int, channels: Int, bytes: [UInt8]) {
        self.width = width
        self.height = height
        self.channels = channels
        self.bytes = bytes
    }

    /// Raw pixels, interleaved, row by row: R G B for a color model, one gray
    /// for a grayscale one.
    public init(raw: [UInt8], width: Int, height: Int) throws {
        let layout = ModelInfo.colorLayout
        guard width > 0, height > 0, raw.count == width * height * layout.rawChannels else {
            throw PredictorError.unreadableImage(
                "\(raw.count) bytes are not \(width) x \(height) pixels of "
                    + "\(layout.rawChannels) bytes")
        }
        var bytes = raw
        if layout.channels == 4 {
            bytes = [UInt8](repeating: 255, count: width * height * 4)
            for pixel in 0..<(width * height) {
                bytes[4 * pixel] = raw[3 * pixel + 2]
                bytes[4 * pixel + 1] = raw[3 * pixel + 1]
                bytes[4 * pixel + 2] = raw[3 * pixel]
            }
        }
        self.init(width: width, height: height, channels: layout.channels, bytes: bytes)
    }

    /// The pixels as `init(raw:width:height:)` takes them.
    public var raw: [UInt8] {
        guard channels == 4 else { return bytes }
        var raw = [UInt8](repeating: 0, count: width * height * 3)
        for pixel in 0..<(width * height) {
            raw[3 * pixel] = bytes[4 * pixel + 2]
            raw[3 * pixel + 1] = bytes[4 * pixel + 1]
            raw[3 * pixel + 2] = bytes[4 * pixel]
        }
        return raw
    }

    /// A copy of a BGRA or one-component buffer, converted to the model's
    /// channels.
    public init(pixelBuffer: CVPixelBuffer) throws {
        let format = CVPixelBufferGetPixelFormatType(pixelBuffer)
        let channels: Int
        switch format {
        case kCVPixelFormatType_32BGRA:
            channels = 4
        case kCVPixelFormatType_OneComponent8:
            channels = 1
        default:
            throw PredictorError.unsupportedPixelFormat(format)
        }
        let (width, height) = (
            CVPixelBufferGetWidth(pixelBuffer), CVPixelBufferGetHeight(pixelBuffer)
        )
        let row = width * channels
        var bytes = [UInt8](repeating: 0, count: row * height)
        try Self.rows(of: pixelBuffer, readOnly: true) { base, stride in
            bytes.withUnsafeMutableBytes { target in
                for y in 0..<height {
                    let source = UnsafeRawBufferPointer(start: base + y * stride, count: row)
                    UnsafeMutableRawBufferPointer(rebasing: target[(y * row)..<((y + 1) * row)])
                        .copyMemory(from: source)
                }
            }
        }
        self = PixelImage(width: width, height: height, channels: channels, bytes: bytes)
            .converted(to: ModelInfo.colorLayout.channels)
    }

    /// Copies the pixels into a buffer of the same size and format.
    func write(to pixelBuffer: CVPixelBuffer) throws {
        let row = width * channels
        try Self.rows(of: pixelBuffer, readOnly: false) { base, stride in
            bytes.withUnsafeBytes { source in
                for y in 0..<height {
                    UnsafeMutableRawBufferPointer(start: base + y * stride, count: row)
                        .copyMemory(
                            from: UnsafeRawBufferPointer(
                                rebasing: source[(y * row)..<((y + 1) * row)]))
                }
            }
        }
    }

    private static func rows(
        of pixelBuffer: CVPixelBuffer, readOnly: Bool,
        body: (_ base: UnsafeMutableRawPointer, _ stride: Int) -> Void
    ) throws {
        let flags: CVPixelBufferLockFlags = readOnly ? .readOnly : []
        let code = CVPixelBufferLockBaseAddress(pixelBuffer, flags)
        guard code == kCVReturnSuccess else {
            throw PredictorError.pixelBuffer("locking a pixel buffer", code)
        }
        defer { CVPixelBufferUnlockBaseAddress(pixelBuffer, flags) }
        guard let base = CVPixelBufferGetBaseAddress(pixelBuffer) else {
            throw PredictorError.pixelBuffer("finding a pixel buffer's memory", code)
        }
        body(base, CVPixelBufferGetBytesPerRow(pixelBuffer))
    }
}

extension PixelImage {
    /// Gray to B G R A or back, with OpenCV's weights: ITU-R BT.601 in 14-bit
    /// fixed point.
    func converted(to count: Int) -> PixelImage {
        guard count != channels else { return self }
        var found = [UInt8](repeating: 255, count: width * height * count)
        for pixel in 0..<(width * height) {
            if count == 4 {
                for channel in 0..<3 {
                    found[4 * pixel + channel] = bytes[pixel]
                }
            } else {
                let blue = 1868 * Int(bytes[4 * pixel])
                let green = 9617 * Int(bytes[4 * pixel + 1])
                let red = 4899 * Int(bytes[4 * pixel + 2])
                found[pixel] = UInt8((blue + green + red + (1 << 13)) >> 14)
            }
        }
        return PixelImage(width: width, height: height, channels: count, bytes: found)
    }
}
