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
    private func samples(from size: Int, to count: Int, atEdge: Bool) -> [Samples] {
        let scale = 1 / (Double(count) / Double(size))
        return (0..<count).map { index in
            let position = Float((Double(index) + 0.5) * scale - 0.5)
            var first = Int(position.rounded(.down))
            var part = position - Float(first)
            if atEdge, first < 0 || first >= size - 1 {
                (first, part) = (first < 0 ? 0 : size - 1, 0)
            }
            let weights = self == .cubic ? Self.cubic(part) : [1 - part, part]
            let before = self == .cubic ? 1 : 0
            return Samples(
                pixels: weights.indices.map { min(size - 1, max(0, first - before + $0)) },
                weights: weights.map { Int(($0 * 2048).rounded(.toNearestOrEven)) })
        }
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

/// The pixels that make one new pixel.
struct Samples: Sendable {
    let pixels: [Int]
    /// In units of 1 / 2048.
    let weights: [Int]
}

extension PixelImage {
    /// - Parameter truncates: round as OpenCV's linear pass over columns does.
    func interpolated(columns: [Samples], rows: [Samples], truncates: Bool) -> PixelImage {
        var found: [UInt8] = []
        found.reserveCapacity(columns.count * rows.count * channels)
        var kept: [Int: [Int]] = [:]
        for row in rows {
            // Neighbouring new rows read the same old ones.
            kept = kept.filter { row.pixels.contains($0.key) }
            for pixel in row.pixels where kept[pixel] == nil {
                kept[pixel] = line(pixel, columns)
            }
            let lines = row.pixels.compactMap { kept[$0] }
            for index in 0..<(columns.count * channels) {
                var sum = truncates ? 2 : 1 << 21
                for (line, weight) in zip(lines, row.weights) {
                    sum += truncates ? (weight * (line[index] >> 4)) >> 16 : weight * line[index]
                }
                found.append(UInt8(min(255, max(0, truncates ? sum >> 2 : sum >> 22))))
            }
        }
        return PixelImage(
            width: columns.count, height: rows.count, channels: channels, bytes: found)
    }

    private func line(_ row: Int, _ columns: [Samples]) -> [Int] {
        var sums = [Int](repeating: 0, count: columns.count * channels)
        for (index, sample) in columns.enumerated() {
            for (pixel, weight) in zip(sample.pixels, sample.weights) {
                let start = (row * width + pixel) * channels
                for channel in 0..<channels {
                    sums[index * channels + channel] += weight * Int(bytes[start + channel])
                }
            }
        }
        return sums
    }
}
