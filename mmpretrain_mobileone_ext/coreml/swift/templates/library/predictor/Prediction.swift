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
    /// The likeliest label; the model's own where it returns one.
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

    /// - Throws: `PredictorError.notFinite` where a probability is no number.
    init(label: String, probabilities: [Double]) throws {
        for (name, value) in zip(ModelInfo.labels, probabilities) where !value.isFinite {
            throw PredictorError.notFinite(name)
        }
        self.label = label
        self.probabilities = probabilities
    }
}
