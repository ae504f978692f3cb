import Foundation

/// Loads the model with Core AI, where it is: in iOS 27 and macOS 27 and their
/// SDKs, in no simulator's.
enum ModelLoader {
    static var isAvailable: Bool {
        #if canImport(CoreAI)
            if #available(iOS 27.0, macOS 27.0, *) {
                return true
            }
        #endif
        return false
    }

    /// Blocks the thread that calls.
    static func load(_ computeUnits: ComputeUnits) throws -> any ModelRuntime {
        #if canImport(CoreAI)
            if #available(iOS 27.0, macOS 27.0, *) {
                return try Waiting.result { try await CoreAIRuntime.load(computeUnits) }
            }
            throw PredictorError.runtimeMissing("Core AI needs iOS 27 or macOS 27")
        #else
            throw PredictorError.runtimeMissing(
                "this build has no Core AI: build it with Xcode 27 or later, for a device or "
                    + "a Mac and not for a simulator")
        #endif
    }
}

/// Asynchronous work for a caller that waits. Not for a thread of Swift's own
/// pool, which the work may need.
enum Waiting {
    static func result<Value: Sendable>(
        _ work: @escaping @Sendable () async throws -> Value
    ) throws -> Value {
        let (done, box) = (DispatchSemaphore(value: 0), Box<Value>())
        Task.detached(priority: .userInitiated) {
            do {
                box.result = .success(try await work())
            } catch {
                box.result = .failure(error)
            }
            done.signal()
        }
        done.wait()
        return try box.result.get()
    }

    /// Written once, before the signal, and read after it.
    private final class Box<Value>: @unchecked Sendable {
        var result: Result<Value, any Error> = .failure(CancellationError())
    }
}
