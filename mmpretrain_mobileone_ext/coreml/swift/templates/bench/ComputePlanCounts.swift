import CoreML
import Foundation

/// Where Core ML plans to run the operations.
enum ComputePlanCounts {
    /// - Returns: nil where the system has no compute plans (before iOS 17.4
    ///   and macOS 14.4), or this package was built by an older Xcode than 15.3.
    static func count(
        modelURL: URL, computeUnits: MLComputeUnits
    ) async throws -> BenchReport.ComputePlan? {
        #if compiler(>=5.10)
            if #available(iOS 17.4, macOS 14.4, *) {
                let configuration = MLModelConfiguration()
                configuration.computeUnits = computeUnits
                let plan = try await MLComputePlan.load(
                    contentsOf: modelURL, configuration: configuration)
                return counts(plan)
            }
        #endif
        return nil
    }

    #if compiler(>=5.10)
        @available(iOS 17.4, macOS 14.4, *)
        private static func counts(_ plan: MLComputePlan) -> BenchReport.ComputePlan? {
            var usages: [MLComputePlan.DeviceUsage?] = []
            switch plan.modelStructure {
            case .program(let program):
                for function in program.functions.values {
                    usages += operations(in: function.block).map { plan.deviceUsage(for: $0) }
                }
            case .neuralNetwork(let network):
                usages = network.layers.map { plan.deviceUsage(for: $0) }
            default:
                return nil
            }
            var found = BenchReport.ComputePlan(cpu: 0, gpu: 0, neuralEngine: 0, none: 0)
            for usage in usages {
                add(usage?.preferred, to: &found)
            }
            return found
        }

        @available(iOS 17.4, macOS 14.4, *)
        private static func operations(
            in block: MLModelStructure.Program.Block
        ) -> [MLModelStructure.Program.Operation] {
            block.operations.flatMap { operation in
                [operation] + operation.blocks.flatMap { operations(in: $0) }
            }
        }

        @available(iOS 17.4, macOS 14.4, *)
        private static func add(
            _ device: MLComputeDevice?, to counts: inout BenchReport.ComputePlan
        ) {
            switch device {
            case .cpu?: counts.cpu += 1
            case .gpu?: counts.gpu += 1
            case .neuralEngine?: counts.neuralEngine += 1
            default: counts.none += 1
            }
        }
    #endif
}
