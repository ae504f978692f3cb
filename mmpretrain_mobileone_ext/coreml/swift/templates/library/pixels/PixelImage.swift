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
        if layout.channels == 4 {
            self.init(red: raw, width: width, height: height)
        } else {
            self.init(width: width, height: height, channels: 1, bytes: raw)
        }
    }

    /// The pixels as `init(raw:width:height:)` takes them.
    public var raw: [UInt8] {
        channels == 4 ? red : bytes
    }

    /// A copy of a buffer, converted to the model's channels.
    ///
    /// Read are BGRA, one gray component, and the two 8-bit formats of cameras
    /// (`420v`, `420f`): their colors by the matrix that the buffer states.
    public init(pixelBuffer: CVPixelBuffer) throws {
        let found: PixelImage
        switch CVPixelBufferGetPixelFormatType(pixelBuffer) {
        case kCVPixelFormatType_32BGRA:
            found = try Self.interleaved(pixelBuffer, channels: 4)
        case kCVPixelFormatType_OneComponent8:
            found = try Self.interleaved(pixelBuffer, channels: 1)
        case kCVPixelFormatType_420YpCbCr8BiPlanarVideoRange:
            found = try Self.planes(pixelBuffer, isFull: false)
        case kCVPixelFormatType_420YpCbCr8BiPlanarFullRange:
            found = try Self.planes(pixelBuffer, isFull: true)
        case let format:
            throw PredictorError.unsupportedPixelFormat(format)
        }
        self = found.converted(to: ModelInfo.colorLayout.channels)
    }

    private static func interleaved(
        _ pixelBuffer: CVPixelBuffer, channels: Int
    ) throws -> PixelImage {
        let width = CVPixelBufferGetWidth(pixelBuffer)
        let height = CVPixelBufferGetHeight(pixelBuffer)
        return try locked(pixelBuffer, readOnly: true) {
            let base = try address(CVPixelBufferGetBaseAddress(pixelBuffer))
            let stride = CVPixelBufferGetBytesPerRow(pixelBuffer)
            return PixelImage(width: width, height: height, channels: channels) { target in
                for y in 0..<height {
                    UnsafeMutableRawPointer(target + y * width * channels)
                        .copyMemory(from: base + y * stride, byteCount: width * channels)
                }
            }
        }
    }

    private static func planes(_ pixelBuffer: CVPixelBuffer, isFull: Bool) throws -> PixelImage {
        try locked(pixelBuffer, readOnly: true) {
            let luma = try address(CVPixelBufferGetBaseAddressOfPlane(pixelBuffer, 0))
            let chroma = try address(CVPixelBufferGetBaseAddressOfPlane(pixelBuffer, 1))
            return PixelImage(
                luma: UnsafePointer(luma.assumingMemoryBound(to: UInt8.self)),
                lumaRow: CVPixelBufferGetBytesPerRowOfPlane(pixelBuffer, 0),
                chroma: UnsafePointer(chroma.assumingMemoryBound(to: UInt8.self)),
                chromaRow: CVPixelBufferGetBytesPerRowOfPlane(pixelBuffer, 1),
                width: CVPixelBufferGetWidth(pixelBuffer),
                height: CVPixelBufferGetHeight(pixelBuffer),
                matrix: ColorMatrix(of: pixelBuffer, isFull: isFull))
        }
    }

    /// Copies the pixels into a buffer of the same size and format.
    func write(to pixelBuffer: CVPixelBuffer) throws {
        let row = width * channels
        try Self.locked(pixelBuffer, readOnly: false) {
            let base = try Self.address(CVPixelBufferGetBaseAddress(pixelBuffer))
            let stride = CVPixelBufferGetBytesPerRow(pixelBuffer)
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

    private static func locked<Value>(
        _ pixelBuffer: CVPixelBuffer, readOnly: Bool, body: () throws -> Value
    ) throws -> Value {
        let flags: CVPixelBufferLockFlags = readOnly ? .readOnly : []
        let code = CVPixelBufferLockBaseAddress(pixelBuffer, flags)
        guard code == kCVReturnSuccess else {
            throw PredictorError.pixelBuffer("locking a pixel buffer", code)
        }
        defer { CVPixelBufferUnlockBaseAddress(pixelBuffer, flags) }
        return try body()
    }

    private static func address(
        _ found: UnsafeMutableRawPointer?
    ) throws -> UnsafeMutableRawPointer {
        guard let found = found else {
            throw PredictorError.pixelBuffer(
                "finding a pixel buffer's memory", kCVReturnInvalidArgument)
        }
        return found
    }
}
