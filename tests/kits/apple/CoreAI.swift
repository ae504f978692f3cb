// Core AI: answers that were recorded for known tensors. The environment
// variable FAKE_COREML names the same file as that of Core ML's stand-in; an
// answer is found by the FNV-1a hash of a tensor's bytes.
@_exported import Foundation

struct Recorded: Decodable {
    let input: String
    let probabilities: String
    let width: Int
    let height: Int
    let channels: Int
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

public enum ComputeUnitKind: Sendable {
    case cpu, gpu, neuralEngine
}

public struct SpecializationOptions: Sendable {
    public static let `default` = SpecializationOptions(preferred: nil)
    public static let cpuOnly = SpecializationOptions(preferred: .cpu)
    public let preferredComputeUnitKind: ComputeUnitKind?

    private init(preferred: ComputeUnitKind?) {
        preferredComputeUnitKind = preferred
    }

    public init(preferredComputeUnitKind: ComputeUnitKind) {
        self.init(preferred: preferredComputeUnitKind)
    }
}

/// Swift's own has come after the compiler that reads this.
public struct Span<Element> {
    private let elements: [Element]

    init(_ elements: [Element]) {
        self.elements = elements
    }

    public var count: Int { elements.count }

    public subscript(position: Int) -> Element { elements[position] }
}

public struct NDArray: Sendable {
    public enum ScalarType: Sendable {
        case float16, float32, int32
    }

    public struct InterleaveLayout: Sendable {}

    // Apple's views cannot be copied nor kept; this compiler has not all of that.
    public struct View<Element: BitwiseCopyable> {
        let storage: Storage
        let (shape, strides): ([Int], [Int])

        public func withUnsafePointer<R, E: Error>(
            _ body: (UnsafePointer<Element>, Span<Int>, Span<Int>) throws(E) -> R
        ) throws(E) -> R {
            let start = UnsafeRawPointer(storage.start).assumingMemoryBound(to: Element.self)
            return try body(start, Span(shape), Span(strides))
        }
    }

    public struct MutableView<Element: BitwiseCopyable> {
        let storage: Storage
        let (shape, strides): ([Int], [Int])

        public func withUnsafeMutablePointer<R, E: Error>(
            _ body: (UnsafeMutablePointer<Element>, Span<Int>, Span<Int>) throws(E) -> R
        ) throws(E) -> R {
            let start = storage.start.assumingMemoryBound(to: Element.self)
            return try body(start, Span(shape), Span(strides))
        }
    }

    final class Storage: @unchecked Sendable {
        let start: UnsafeMutableRawPointer

        init(byteCount: Int) {
            start = .allocate(byteCount: byteCount, alignment: 64)
            start.initializeMemory(as: UInt8.self, repeating: 0xFF, count: byteCount)
        }

        deinit { start.deallocate() }
    }

    public let shape: [Int]
    public let strides: [Int]
    public let scalarType: ScalarType
    public var interleaveLayout: InterleaveLayout? { nil }
    let storage: Storage

    public init(shape: [Int], scalarType: ScalarType) {
        var strides = shape.map { _ in 1 }
        for index in strides.indices.dropLast().reversed() {
            strides[index] = strides[index + 1] * shape[index + 1]
        }
        self.init(shape: shape, scalarType: scalarType, strides: strides)
    }

    public init(shape: [Int], scalarType: ScalarType, strides: [Int]) {
        (self.shape, self.scalarType, self.strides) = (shape, scalarType, strides)
        let last = zip(shape, strides).map { ($0 - 1) * $1 }.reduce(0, +)
        storage = Storage(byteCount: 4 * (last + 1))
    }

    public func view<T: BitwiseCopyable>(as type: T.Type = T.self) -> View<T> {
        View(storage: storage, shape: shape, strides: strides)
    }

    public mutating func mutableView<T: BitwiseCopyable>(as type: T.Type = T.self) -> MutableView<T>
    {
        MutableView(storage: storage, shape: shape, strides: strides)
    }
}

public struct NDArrayDescriptor: Sendable {
    public let shape: [Int]
    public let scalarType: NDArray.ScalarType
}

public struct ImageDescriptor: Sendable {}

// Apple's values and outputs cannot be copied.
public struct InferenceValue: ~Copyable, Sendable {
    public enum Descriptor: Sendable {
        case image(ImageDescriptor)
        case ndArray(NDArrayDescriptor)
    }

    let array: NDArray

    public var ndArray: NDArray? {
        consuming get { array }
    }
}

public struct InferenceFunctionDescriptor: Sendable {
    let recorded: [String: NDArrayDescriptor]

    public func inputDescriptor(of name: String) -> InferenceValue.Descriptor? {
        recorded["in " + name].map { .ndArray($0) }
    }

    public func outputDescriptor(of name: String) -> InferenceValue.Descriptor? {
        recorded["out " + name].map { .ndArray($0) }
    }
}

@available(macOS 27.0, iOS 27.0, *)
public struct InferenceFunction: Sendable {
    public struct MutableViews: ~Copyable {
        public init() {}
    }

    public struct Outputs: ~Copyable, Sendable {
        var arrays: [String: NDArray]

        public mutating func remove(_ name: String) -> InferenceValue? {
            guard let array = arrays.removeValue(forKey: name) else { return nil }
            return InferenceValue(array: array)
        }
    }

    public let descriptor: InferenceFunctionDescriptor
    let recorded: Recorded

    public func run(
        inputs: [String: NDArray], states: consuming MutableViews = MutableViews(),
        outputViews: consuming MutableViews = MutableViews()
    ) async throws -> Outputs {
        await Task.yield()
        guard let input = inputs[recorded.input], inputs.count == 1 else {
            throw Refused(message: "inputs \(inputs.keys.sorted())")
        }
        let even = recorded.labels.map { _ in 1 / Double(recorded.labels.count) }
        let values = recorded.answers[hash(of: input)] ?? even
        // With gaps, as a device may return it.
        let found = NDArray(
            shape: [1, values.count], scalarType: .float32, strides: [3 * values.count, 3])
        let start = found.storage.start.assumingMemoryBound(to: Float.self)
        for (index, value) in values.enumerated() {
            start[3 * index] = Float(value)
        }
        return Outputs(arrays: [recorded.probabilities: found])
    }

    private func hash(of array: NDArray) -> String {
        let count = 4 * array.shape.reduce(1, *)
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in UnsafeRawBufferPointer(start: array.storage.start, count: count) {
            hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3
        }
        return String(hash)
    }
}

@available(macOS 27.0, iOS 27.0, *)
public struct AIModel: Sendable {
    private let recorded: Recorded

    public init(contentsOf modelURL: URL, options: SpecializationOptions = .default) async throws {
        guard modelURL.pathExtension == "aimodel",
            FileManager.default.fileExists(
                atPath: modelURL.appendingPathComponent("main.mlirb").path)
        else {
            throw Refused(message: "\(modelURL.path) is no model")
        }
        recorded = try Recorded.load()
    }

    public func loadFunction(named functionName: String) throws -> InferenceFunction? {
        guard functionName == "main" else { return nil }
        let input = NDArrayDescriptor(
            shape: [1, recorded.channels, recorded.height, recorded.width], scalarType: .float32)
        let output = NDArrayDescriptor(shape: [1, recorded.labels.count], scalarType: .float32)
        let both = [
            "in " + recorded.input: input, "out " + recorded.probabilities: output,
        ]
        return InferenceFunction(
            descriptor: InferenceFunctionDescriptor(recorded: both), recorded: recorded)
    }
}
