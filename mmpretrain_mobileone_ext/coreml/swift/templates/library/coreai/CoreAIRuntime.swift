// All that this package calls of Core AI; the README says what of it nobody has
// run.
#if canImport(CoreAI)
    import CoreAI
    import CoreVideo
    import Foundation

    /// Runs the model with Core AI, several predictions at the same time if need
    /// be.
    @available(iOS 27.0, macOS 27.0, *)
    final class CoreAIRuntime: ModelRuntime {
        /// The system compiles a model for its hardware while it loads it, and
        /// keeps the result.
        let compileSeconds: Double? = nil
        let loadSeconds: Double
        let modelURL: URL

        private let function: InferenceFunction

        private init(_ function: InferenceFunction, from url: URL, seconds: Double) {
            self.function = function
            modelURL = url
            loadSeconds = seconds
        }

        static func load(_ computeUnits: ComputeUnits) async throws -> CoreAIRuntime {
            let url = try ModelFiles.exported()
            let watch = Stopwatch()
            let model = try await AIModel(contentsOf: url, options: computeUnits.coreAI)
            guard let function = try model.loadFunction(named: "main") else {
                throw PredictorError.modelDiffers("it has no function main")
            }
            let seconds = watch.seconds
            try check(function.descriptor)
            return CoreAIRuntime(function, from: url, seconds: seconds)
        }

        func predict(_ pixels: ReadyPixels) throws -> Prediction {
            try Waiting.result { try await self.prediction(pixels) }
        }

        func prediction(_ pixels: ReadyPixels) async throws -> Prediction {
            let image = try PixelImage(pixelBuffer: pixels.buffer)
            let input = Self.tensor(image)
            var outputs = try await function.run(inputs: [ModelInfo.inputName: input])
            guard let value = outputs.remove(ModelInfo.probabilitiesName),
                let found = value.ndArray
            else {
                throw PredictorError.missingOutput(ModelInfo.probabilitiesName)
            }
            return try Prediction(probabilities: Self.values(found))
        }

        /// (1, C, H, W), 0 to 255, channels in the network's order.
        private static func tensor(_ image: PixelImage) -> NDArray {
            // Contiguous, row by row.
            var array = NDArray(shape: inputShape, scalarType: .float32)
            array.mutableView(as: Float.self).withUnsafeMutablePointer { target, _, _ in
                image.writePlanes(to: target)
            }
            return array
        }

        /// One value a class, of (1, classes).
        private static func values(_ array: NDArray) throws -> [Double] {
            guard array.scalarType == .float32, array.shape == outputShape,
                array.interleaveLayout == nil
            else {
                throw PredictorError.missingOutput(ModelInfo.probabilitiesName)
            }
            let step = array.strides[1]
            return array.view(as: Float.self).withUnsafePointer { values, _, _ in
                ModelInfo.labels.indices.map { Double(values[$0 * step]) }
            }
        }

        private static var inputShape: [Int] {
            [1, ModelInfo.colorLayout.rawChannels, ModelInfo.height, ModelInfo.width]
        }

        private static var outputShape: [Int] { [1, ModelInfo.labels.count] }

        /// - Throws: `PredictorError.modelDiffers` where the loaded model has not
        ///   the names and sizes of `ModelInfo`.
        private static func check(_ found: InferenceFunctionDescriptor) throws {
            let (input, output) = (ModelInfo.inputName, ModelInfo.probabilitiesName)
            guard case .ndArray(let taken)? = found.inputDescriptor(of: input) else {
                throw PredictorError.modelDiffers("it has no tensor input \(input)")
            }
            guard taken.shape == inputShape, taken.scalarType == .float32 else {
                throw PredictorError.modelDiffers(
                    "its input is \(taken.shape) of \(taken.scalarType)")
            }
            guard case .ndArray(let made)? = found.outputDescriptor(of: output) else {
                throw PredictorError.modelDiffers("it has no tensor output \(output)")
            }
            guard made.shape == outputShape else {
                throw PredictorError.modelDiffers("its output is \(made.shape)")
            }
        }
    }

    @available(iOS 27.0, macOS 27.0, *)
    extension ComputeUnits {
        /// Core AI takes a preference; only the CPU can have it all.
        fileprivate var coreAI: SpecializationOptions {
            switch self {
            case .all:
                return .default
            case .cpuOnly:
                return .cpuOnly
            case .cpuAndGPU:
                return SpecializationOptions(preferredComputeUnitKind: .gpu)
            case .cpuAndNeuralEngine:
                return SpecializationOptions(preferredComputeUnitKind: .neuralEngine)
            }
        }
    }

    extension Prediction {
        /// - Parameter probabilities: one a class, in the order of
        ///   `ModelInfo.labels`.
        fileprivate init(probabilities: [Double]) throws {
            let best = probabilities.indices.max { probabilities[$0] < probabilities[$1] }
            try self.init(label: ModelInfo.labels[best ?? 0], probabilities: probabilities)
        }
    }
#endif
