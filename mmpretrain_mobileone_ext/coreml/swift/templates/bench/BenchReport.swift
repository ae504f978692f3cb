import Foundation

/// What a run of the benchmark found; written as JSON after
/// `bench.schema.json`, whose key of `medianMs` is `median_ms`.
///
/// Times are in milliseconds, memory is in MiB (1 048 576 bytes).
public struct BenchReport: Codable, Equatable, Sendable {
    /// The file that was measured.
    public struct Model: Codable, Equatable, Sendable {
        public var name: String
        public var sha256: String
        public var format: String
        public var precision: String
    }

    public struct Device: Codable, Equatable, Sendable {
        /// As the system names it, e.g. `iPhone15,2`.
        public var model: String
        /// `iOS` or `macOS`.
        public var system: String
        public var systemVersion: String
        /// Figures of a simulator say nothing of a device.
        public var simulator: Bool
        public var processors: Int
        public var memoryMib: Double
        public var lowPowerMode: Bool
    }

    /// From nothing to the first prediction.
    public struct ColdStart: Codable, Equatable, Sendable {
        /// nil where a compiled model was there, and with Core AI, which compiles
        /// while it loads.
        public var compileMs: Double?
        public var loadMs: Double
        public var firstPredictionMs: Double
    }

    /// Of the measured predictions, one image each.
    public struct Latency: Codable, Equatable, Sendable {
        public var minMs: Double
        public var medianMs: Double
        public var meanMs: Double
        public var p90Ms: Double
        public var p99Ms: Double
        public var maxMs: Double
    }

    /// Physical footprint of the process, as Xcode's memory gauge has it; nil
    /// where the system does not tell.
    public struct Footprint: Codable, Equatable, Sendable {
        public var beforeLoadMib: Double?
        public var afterLoadMib: Double?
        public var afterRunMib: Double?
    }

    /// `nominal`, `fair`, `serious` or `critical`.
    public struct Thermal: Codable, Equatable, Sendable {
        public var before: String
        public var after: String
    }

    /// Operations by the device that Core ML prefers for them.
    public struct ComputePlan: Codable, Equatable, Sendable {
        public var cpu: Int
        public var gpu: Int
        public var neuralEngine: Int
        /// Operations without a device: constants, mostly.
        public var none: Int
    }

    public static let currentSchema = 1

    public var schemaVersion: Int
    public var date: String
    /// `release` or `debug`.
    public var build: String
    public var model: Model
    public var device: Device
    public var computeUnits: String
    public var warmup: Int
    public var iterations: Int
    public var coldStart: ColdStart
    public var latency: Latency
    /// Images per second over the measured predictions.
    public var throughput: Double
    public var footprint: Footprint
    public var thermal: Thermal
    /// nil before iOS 17.4 and macOS 14.4, and with Core AI.
    public var computePlan: ComputePlan?

    /// JSON, keys sorted.
    public func json() throws -> Data {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
        return try encoder.encode(self)
    }
}

extension BenchReport.Latency {
    /// - Parameter times: of the predictions in milliseconds, at least one.
    public init(times: [Double]) {
        let sorted = times.sorted()
        self.init(
            minMs: sorted[0],
            medianMs: Statistics.median(sorted),
            meanMs: sorted.reduce(0, +) / Double(sorted.count),
            p90Ms: Statistics.percentile(sorted, 0.9),
            p99Ms: Statistics.percentile(sorted, 0.99),
            maxMs: sorted[sorted.count - 1])
    }
}

/// Of sorted values, at least one.
enum Statistics {
    static func median(_ sorted: [Double]) -> Double {
        let middle = sorted.count / 2
        return sorted.count % 2 == 1
            ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
    }

    /// The nearest rank: the least value that this share does not exceed.
    static func percentile(_ sorted: [Double], _ share: Double) -> Double {
        let rank = Int((share * Double(sorted.count)).rounded(.up))
        return sorted[min(sorted.count, max(1, rank)) - 1]
    }
}
