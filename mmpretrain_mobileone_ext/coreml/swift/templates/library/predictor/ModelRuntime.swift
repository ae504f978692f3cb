import CoreVideo
import Foundation

/// What executes the model: Core ML or Core AI, as `ModelLoader` has it.
protocol ModelRuntime: Sendable {
    /// Time to compile the model in seconds; nil where that was done before,
    /// or is a part of loading.
    var compileSeconds: Double? { get }
    /// Time to load the model in seconds.
    var loadSeconds: Double { get }
    /// The model that was loaded, on disk.
    var modelURL: URL { get }

    /// Blocks the thread that calls.
    func predict(_ pixels: ReadyPixels) throws -> Prediction
    func prediction(_ pixels: ReadyPixels) async throws -> Prediction
}

/// A buffer of the model's size and format on its way to the model; nobody
/// else writes into it.
struct ReadyPixels: @unchecked Sendable {
    let buffer: CVPixelBuffer

    init(_ buffer: CVPixelBuffer) throws {
        let (width, height) = (CVPixelBufferGetWidth(buffer), CVPixelBufferGetHeight(buffer))
        guard width == ModelInfo.width, height == ModelInfo.height else {
            throw PredictorError.wrongSize(
                width: width, height: height,
                expected: "predict(pixelBuffer:) takes \(ModelInfo.width) x "
                    + "\(ModelInfo.height); use predict(frame:) for other sizes")
        }
        let format = CVPixelBufferGetPixelFormatType(buffer)
        guard format == PixelBufferPool.format else {
            throw PredictorError.unsupportedPixelFormat(format)
        }
        self.buffer = buffer
    }
}
