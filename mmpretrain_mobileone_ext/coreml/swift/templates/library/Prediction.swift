import CoreML
import Foundation

/// One class and its probability.
public struct Classification: Equatable, Sendable {
    public let label: String
    /// 0 to 1.
    public let probability: Double
    /// Position in `ModelInfo.labels`.
    public let index: Int
}

/// What the model says of one image.
public struct Prediction: Equatable, Sendable {
    /// The likeliest label, as the model returned it.
    public let label: String
    /// One value a class, 0 to 1, in the order of `ModelInfo.labels`.
    public let probabilities: [Double]

    /// The likeliest classes, likeliest first; equal ones in class order.
    public func top(_ count: Int) -> [Classification] {
        let order = probabilities.indices.sorted { left, right in
            let (a, b) = (probabilities[left], probabilities[right])
            return a == b ? left < right : a > b
        }
        return order.prefix(max(0, count)).map { index in
            Classification(
                label: ModelInfo.labels[index],
                probability: probabilities[index],
                index: index)
        }
    }

    init(output: any MLFeatureProvider) throws {
        let name = ModelInfo.labelName
        guard let value = output.featureValue(for: name), value.type == .string else {
            throw PredictorError.missingOutput(name)
        }
        label = value.stringValue
        probabilities = try Self.probabilities(of: output)
    }

    private static func probabilities(of output: any MLFeatureProvider) throws -> [Double] {
        let name = ModelInfo.probabilitiesName
        guard let value = output.featureValue(for: name), value.type == .dictionary else {
            throw PredictorError.missingOutput(name)
        }
        let found = value.dictionaryValue
        return try ModelInfo.labels.map { label in
            guard let number = found[AnyHashable(label)] else {
                throw PredictorError.missingOutput("\(name)[\(label)]")
            }
            guard number.doubleValue.isFinite else {
                throw PredictorError.notFinite(label)
            }
            return number.doubleValue
        }
    }
}
