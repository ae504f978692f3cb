// Core ML: answers that were recorded for known pixels. The environment
// variable FAKE_COREML names a JSON file with the model's interface and, for
// the FNV-1a hash of an input's pixels, its probabilities.
@_exported import CoreVideo

struct Recorded: Decodable {
    let input: String
    let label: String
    let probabilities: String
    let width: Int
    let height: Int
    let format: UInt32
    let labels: [String]
    let answers: [String: [Double]]

    static func load() throws -> Recorded {
        let path = ProcessInfo.processInfo.environment["FAKE_COREML"] ?? ""
        return try JSONDecoder().decode(
            Recorded.self, from: Data(contentsOf: URL(fileURLWithPath: path)))
    }
}

struct Refused: Error {
    let message: String
}

public enum MLComputeUnits: Int, Sendable {
    case cpuOnly, cpuAndGPU, all, cpuAndNeuralEngine
}

public final class MLModelConfiguration {
    public var computeUnits = MLComputeUnits.all
    public init() {}
}

public final class MLPredictionOptions {
    public init() {}
}

public enum MLFeatureType: Int, Sendable {
    case invalid, int64, double, string, image, multiArray, dictionary, sequence
}

public final class MLFeatureValue {
    public let type: MLFeatureType
    public let stringValue: String
    public let dictionaryValue: [AnyHashable: NSNumber]
    public let imageBufferValue: CVPixelBuffer?

    init(type: MLFeatureType, string: String = "", dictionary: [AnyHashable: NSNumber] = [:]) {
        self.type = type
        stringValue = string
        dictionaryValue = dictionary
        imageBufferValue = nil
    }

    public init(pixelBuffer value: CVPixelBuffer) {
        type = .image
        stringValue = ""
        dictionaryValue = [:]
        imageBufferValue = value
    }
}

public protocol MLFeatureProvider {
    var featureNames: Set<String> { get }
    func featureValue(for featureName: String) -> MLFeatureValue?
}

public final class MLDictionaryFeatureProvider: MLFeatureProvider {
    private let values: [String: Any]

    public init(dictionary: [String: Any]) throws {
        values = dictionary
    }

    public var featureNames: Set<String> { Set(values.keys) }

    public func featureValue(for featureName: String) -> MLFeatureValue? {
        values[featureName] as? MLFeatureValue
    }
}

public final class MLImageConstraint {
    public let pixelsWide: Int
    public let pixelsHigh: Int

    init(_ recorded: Recorded) {
        pixelsWide = recorded.width
        pixelsHigh = recorded.height
    }
}

public final class MLFeatureDescription {
    public let imageConstraint: MLImageConstraint?

    init(_ constraint: MLImageConstraint?) {
        imageConstraint = constraint
    }
}

public final class MLModelDescription {
    public let inputDescriptionsByName: [String: MLFeatureDescription]
    public let outputDescriptionsByName: [String: MLFeatureDescription]
    public let classLabels: [Any]?

    init(_ recorded: Recorded) {
        inputDescriptionsByName = [
            recorded.input: MLFeatureDescription(MLImageConstraint(recorded))
        ]
        outputDescriptionsByName = [
            recorded.label: MLFeatureDescription(nil),
            recorded.probabilities: MLFeatureDescription(nil),
        ]
        classLabels = recorded.labels
    }
}

public final class MLModel {
    public let modelDescription: MLModelDescription
    private let recorded: Recorded

    public convenience init(contentsOf url: URL) throws {
        try self.init(contentsOf: url, configuration: MLModelConfiguration())
    }

    public init(contentsOf url: URL, configuration: MLModelConfiguration) throws {
        guard url.pathExtension == "mlmodelc",
            FileManager.default.fileExists(atPath: url.appendingPathComponent("compiled").path)
        else {
            throw Refused(message: "\(url.path) is no compiled model")
        }
        recorded = try Recorded.load()
        modelDescription = MLModelDescription(recorded)
    }

    public class func compileModel(at modelURL: URL) throws -> URL {
        guard FileManager.default.fileExists(atPath: modelURL.path) else {
            throw Refused(message: "\(modelURL.path) is not there")
        }
        let target = FileManager.default.temporaryDirectory
            .appendingPathComponent("\(UUID().uuidString).mlmodelc", isDirectory: true)
        try FileManager.default.createDirectory(at: target, withIntermediateDirectories: true)
        try Data().write(to: target.appendingPathComponent("compiled"))
        return target
    }

    @available(macOS 13.0, iOS 16.0, *)
    public class func compileModel(at modelURL: URL) async throws -> URL {
        throw Refused(message: "the package compiles in synchronous code")
    }

    public func prediction(from input: any MLFeatureProvider) throws -> any MLFeatureProvider {
        try prediction(from: input, options: MLPredictionOptions())
    }

    public func prediction(
        from input: any MLFeatureProvider, options: MLPredictionOptions
    ) throws -> any MLFeatureProvider {
        try answer(input)
    }

    private func answer(_ input: any MLFeatureProvider) throws -> any MLFeatureProvider {
        guard let buffer = input.featureValue(for: recorded.input)?.imageBufferValue else {
            throw Refused(message: "no image \(recorded.input)")
        }
        guard CVPixelBufferGetWidth(buffer) == recorded.width,
            CVPixelBufferGetHeight(buffer) == recorded.height,
            CVPixelBufferGetPixelFormatType(buffer) == recorded.format
        else {
            throw Refused(message: "the image is of another size or format")
        }
        let even = recorded.labels.map { _ in 1 / Double(recorded.labels.count) }
        let values = recorded.answers[hash(of: buffer)] ?? even
        let best = values.indices.max { values[$0] < values[$1] } ?? 0
        let pairs = zip(recorded.labels, values).map { (AnyHashable($0), NSNumber(value: $1)) }
        return try MLDictionaryFeatureProvider(dictionary: [
            recorded.label: MLFeatureValue(type: .string, string: recorded.labels[best]),
            recorded.probabilities: MLFeatureValue(
                type: .dictionary, dictionary: Dictionary(uniqueKeysWithValues: pairs)),
        ])
    }

    private func hash(of buffer: CVPixelBuffer) -> String {
        CVPixelBufferLockBaseAddress(buffer, .readOnly)
        defer { CVPixelBufferUnlockBaseAddress(buffer, .readOnly) }
        guard let base = CVPixelBufferGetBaseAddress(buffer) else { return "" }
        let row = recorded.width * (recorded.format == kCVPixelFormatType_32BGRA ? 4 : 1)
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for y in 0..<recorded.height {
            let line = base + y * CVPixelBufferGetBytesPerRow(buffer)
            for byte in UnsafeRawBufferPointer(start: line, count: row) {
                hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3
            }
        }
        return String(hash)
    }
}

@available(macOS 14.0, iOS 17.0, *)
extension MLModel {
    public func prediction(
        from input: any MLFeatureProvider, options: MLPredictionOptions = MLPredictionOptions()
    ) async throws -> any MLFeatureProvider {
        await Task.yield()
        return try answer(input)
    }
}

// MARK: compute plans: one operation a device, one nested, one without.

public final class MLCPUComputeDevice: Sendable {}
public final class MLGPUComputeDevice: Sendable {}
public final class MLNeuralEngineComputeDevice: Sendable {}

public enum MLComputeDevice: Sendable {
    case cpu(MLCPUComputeDevice)
    case gpu(MLGPUComputeDevice)
    case neuralEngine(MLNeuralEngineComputeDevice)
}

public enum MLModelStructure: Sendable {
    public struct NeuralNetwork: Sendable {
        public struct Layer: Sendable {
            public let name: String
        }
        public let layers: [Layer]
    }
    public struct Program: Sendable {
        public struct Operation: Sendable {
            public let operatorName: String
            public let blocks: [Block]
        }
        public struct Block: Sendable {
            public let operations: [Operation]
        }
        public struct Function: Sendable {
            public let block: Block
        }
        public let functions: [String: Function]
    }
    public struct Pipeline: Sendable {}
    case neuralNetwork(NeuralNetwork)
    case program(Program)
    case pipeline(Pipeline)
    case unsupported
}

@available(macOS 14.4, iOS 17.4, *)
public final class MLComputePlan {
    public struct DeviceUsage: Sendable {
        public let preferred: MLComputeDevice
        public let supported: [MLComputeDevice]
    }

    public let modelStructure: MLModelStructure

    init() {
        let nested = MLModelStructure.Program.Operation(operatorName: "gpu", blocks: [])
        let names = ["cpu", "neuralEngine", "neuralEngine", "const"]
        var operations = names.map {
            MLModelStructure.Program.Operation(operatorName: $0, blocks: [])
        }
        operations.append(
            MLModelStructure.Program.Operation(
                operatorName: "cpu", blocks: [.init(operations: [nested])]))
        modelStructure = .program(
            .init(functions: ["main": .init(block: .init(operations: operations))]))
    }

    public class func load(
        contentsOf url: URL, configuration: MLModelConfiguration
    ) async throws -> MLComputePlan {
        _ = try MLModel(contentsOf: url, configuration: configuration)
        return MLComputePlan()
    }

    public func deviceUsage(for operation: MLModelStructure.Program.Operation) -> DeviceUsage? {
        usage(operation.operatorName)
    }

    public func deviceUsage(for layer: MLModelStructure.NeuralNetwork.Layer) -> DeviceUsage? {
        usage(layer.name)
    }

    private func usage(_ name: String) -> DeviceUsage? {
        let devices: [String: MLComputeDevice] = [
            "cpu": .cpu(MLCPUComputeDevice()), "gpu": .gpu(MLGPUComputeDevice()),
            "neuralEngine": .neuralEngine(MLNeuralEngineComputeDevice()),
        ]
        return devices[name].map { DeviceUsage(preferred: $0, supported: [$0]) }
    }
}
