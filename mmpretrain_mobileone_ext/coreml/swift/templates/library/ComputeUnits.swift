import CoreML

/// Where Core ML may run the model.
public enum ComputeUnits: String, CaseIterable, Codable, Sendable {
    case all
    case cpuOnly
    case cpuAndGPU
    case cpuAndNeuralEngine

    /// - Throws: `PredictorError.computeUnitsUnavailable` where the system is
    ///   too old for the choice.
    public func coreML() throws -> MLComputeUnits {
        switch self {
        case .all:
            return .all
        case .cpuOnly:
            return .cpuOnly
        case .cpuAndGPU:
            return .cpuAndGPU
        case .cpuAndNeuralEngine:
            if #available(iOS 16.0, macOS 13.0, *) {
                return .cpuAndNeuralEngine
            }
            throw PredictorError.computeUnitsUnavailable(rawValue)
        }
    }
}
