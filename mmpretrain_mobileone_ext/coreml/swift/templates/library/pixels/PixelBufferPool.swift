import CoreVideo
import Foundation

/// Pixel buffers of the model's size and format.
///
/// Rows are aligned to 64 bytes and the memory is an IOSurface, which the GPU
/// and the Neural Engine read without a copy.
final class PixelBufferPool: @unchecked Sendable {
    static let format =
        ModelInfo.colorLayout == .grayscale
        ? kCVPixelFormatType_OneComponent8 : kCVPixelFormatType_32BGRA

    private let pool: CVPixelBufferPool
    private let lock = NSLock()

    init() throws {
        let surface: [String: Any] = [:]
        let attributes: [String: Any] = [
            kCVPixelBufferPixelFormatTypeKey as String: Int(Self.format),
            kCVPixelBufferWidthKey as String: ModelInfo.width,
            kCVPixelBufferHeightKey as String: ModelInfo.height,
            kCVPixelBufferBytesPerRowAlignmentKey as String: 64,
            kCVPixelBufferIOSurfacePropertiesKey as String: surface,
        ]
        var made: CVPixelBufferPool?
        let code = CVPixelBufferPoolCreate(
            kCFAllocatorDefault, nil, attributes as CFDictionary, &made)
        guard code == kCVReturnSuccess, let pool = made else {
            throw PredictorError.pixelBuffer("making a pool of pixel buffers", code)
        }
        self.pool = pool
    }

    /// A buffer whose pixels are those of `image`, which has the model's size.
    func buffer(_ image: PixelImage) throws -> CVPixelBuffer {
        guard image.width == ModelInfo.width, image.height == ModelInfo.height,
            image.channels == ModelInfo.colorLayout.channels
        else {
            throw PredictorError.wrongSize(
                width: image.width, height: image.height,
                expected: "the model takes \(ModelInfo.width) x \(ModelInfo.height)")
        }
        let buffer = try empty()
        try image.write(to: buffer)
        return buffer
    }

    private func empty() throws -> CVPixelBuffer {
        lock.lock()
        defer { lock.unlock() }
        var made: CVPixelBuffer?
        let code = CVPixelBufferPoolCreatePixelBuffer(kCFAllocatorDefault, pool, &made)
        guard code == kCVReturnSuccess, let buffer = made else {
            throw PredictorError.pixelBuffer("taking a pixel buffer from the pool", code)
        }
        return buffer
    }
}
