import Foundation

/// Everything this package throws by itself; errors of Core ML and of Core AI
/// pass through.
public enum PredictorError: Error, Equatable, Sendable {
    /// The package's resources lack the model.
    case modelMissing(String)
    /// The loaded model is not the one that this package was made for.
    case modelDiffers(String)
    /// The system lacks what runs the model.
    case runtimeMissing(String)
    /// The system is too old for these compute units.
    case computeUnitsUnavailable(String)
    /// Core Video refused; the second value is its result code.
    case pixelBuffer(String, Int32)
    /// Pixels of this four-character code are not read.
    case unsupportedPixelFormat(UInt32)
    /// The image has not the size that is needed here.
    case wrongSize(width: Int, height: Int, expected: String)
    /// The image's pixels cannot be read.
    case unreadableImage(String)
    /// The model returned no such output, or not as declared.
    case missingOutput(String)
    /// The model returned a probability that is no number.
    case notFinite(String)
}

extension PredictorError: LocalizedError {
    public var errorDescription: String? {
        switch self {
        case .modelMissing(let name):
            return "\(name) is not among the package's resources"
        case .modelDiffers(let what):
            return "the model does not fit this package: \(what); export it again with --swift"
        case .runtimeMissing(let what):
            return what
        case .computeUnitsUnavailable(let name):
            return "compute units \(name) need iOS 16 or macOS 13"
        case .pixelBuffer(let what, let code):
            return "\(what) failed with Core Video result \(code)"
        case .unsupportedPixelFormat(let code):
            return "pixel format \(Self.name(of: code)) is not read; allowed: BGRA "
                + "(kCVPixelFormatType_32BGRA) and one 8-bit component, for a camera's frame "
                + "also 420v and 420f"
        case .wrongSize(let width, let height, let expected):
            return "the image is \(width) x \(height) (W x H); \(expected)"
        case .unreadableImage(let what):
            return "the image cannot be read: \(what)"
        case .missingOutput(let name):
            return "the model returned no output \(name) of the declared kind"
        case .notFinite(let label):
            return "the probability of \(label) is no number; a value overflowed in the model"
        }
    }

    private static func name(of code: UInt32) -> String {
        let bytes = [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: code >> $0) }
        guard bytes.allSatisfy({ $0 >= 32 && $0 < 127 }) else {
            return String(code)
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
