import Foundation

/// OpenCV's interpolations of 8-bit pixels, in its arithmetic: weights in
/// 11-bit fixed point (`resize.cpp`). They read the nearest pixels only, also
/// where an image is made much smaller.
public enum OpenCVFilter: String, Sendable {
    case nearest
    case linear
    case cubic

    func resize(_ image: PixelImage, width: Int, height: Int) -> PixelImage {
        if self == .nearest {
            return image.picked(
                columns: Self.nearest(image.width, width), rows: Self.nearest(image.height, height))
        }
        let columns = samples(from: image.width, to: width, atEdge: self == .linear)
        let rows = samples(from: image.height, to: height, atEdge: false)
        return image.interpolated(columns: columns, rows: rows, truncates: self == .linear)
    }

    private static func nearest(_ size: Int, _ count: Int) -> [Int] {
        let scale = 1 / (Double(count) / Double(size))
        return (0..<count).map { min(size - 1, Int((Double($0) * scale).rounded(.down))) }
    }

    /// - Parameter atEdge: beyond the first and the last pixel take that one.
    private func samples(from size: Int, to count: Int, atEdge: Bool) -> Samples {
        let scale = 1 / (Double(count) / Double(size))
        let before = self == .cubic ? 1 : 0
        var found = Samples(length: self == .cubic ? 4 : 2)
        for index in 0..<count {
            let position = Float((Double(index) + 0.5) * scale - 0.5)
            var first = Int(position.rounded(.down))
            var part = position - Float(first)
            if atEdge, first < 0 || first >= size - 1 {
                (first, part) = (first < 0 ? 0 : size - 1, 0)
            }
            let weights = self == .cubic ? Self.cubic(part) : [1 - part, part]
            found.append(
                pixels: weights.indices.map { min(size - 1, max(0, first - before + $0)) },
                weights: weights.map { Int32(($0 * 2048).rounded(.toNearestOrEven)) })
        }
        return found
    }

    /// Keys' kernel with A = -0.75.
    private static func cubic(_ x: Float) -> [Float] {
        let a: Float = -0.75
        let first = ((a * (x + 1) - 5 * a) * (x + 1) + 8 * a) * (x + 1) - 4 * a
        let second = ((a + 2) * x - (a + 3)) * x * x + 1
        let y = 1 - x
        let third = ((a + 2) * y - (a + 3)) * y * y + 1
        return [first, second, third, 1 - first - second - third]
    }
}

/// For each new pixel the old ones that it is made of, and their weights.
struct Samples: Sendable {
    /// Old pixels of each new one.
    let length: Int
    private(set) var count = 0
    private(set) var pixels: [Int] = []
    /// In units of 1 / 2048.
    private(set) var weights: [Int32] = []

    init(length: Int) {
        self.length = length
    }

    mutating func append(pixels newPixels: [Int], weights newWeights: [Int32]) {
        count += 1
        pixels += newPixels
        weights += newWeights
    }
}
