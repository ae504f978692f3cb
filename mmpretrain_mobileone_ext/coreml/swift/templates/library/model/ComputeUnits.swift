/// Where the model may run.
public enum ComputeUnits: String, CaseIterable, Codable, Sendable {
    case all
    case cpuOnly
    case cpuAndGPU
    case cpuAndNeuralEngine
}
