import Foundation

/// Pillow's filters, in its arithmetic: weights in 22-bit fixed point, each
/// pass rounded to 8 bits (`Resample.c`).
///
/// The width is changed first, as in Pillow up to version 12. Version 13 begins
/// with the height where that shrinks much more than the width; some pixels
/// then differ by a few levels of 255.
public enum PillowFilter: String, Sendable {
    case nearest
    case box
    case bilinear
    case hamming
    case bicubic
    case lanczos

    func resize(_ image: PixelImage, width: Int, height: Int) -> PixelImage {
        if self == .nearest {
            return image.picked(
                columns: Self.nearest(image.width, width), rows: Self.nearest(image.height, height))
        }
        var found = image
        if width != image.width {
            found = found.widened(taps(from: image.width, to: width))
        }
        if height != image.height {
            found = found.heightened(taps(from: image.height, to: height))
        }
        return found
    }

    /// Half the filter's width, in pixels of an enlargement.
    private var support: Double {
        switch self {
        case .nearest, .box: return 0.5
        case .bilinear, .hamming: return 1
        case .bicubic: return 2
        case .lanczos: return 3
        }
    }

    private func weight(_ position: Double) -> Double {
        let x = abs(position)
        switch self {
        case .nearest, .box:
            return position > -0.5 && position <= 0.5 ? 1 : 0
        case .bilinear:
            return x < 1 ? 1 - x : 0
        case .hamming:
            return x < 1 ? Self.sinc(x) * (0.54 + 0.46 * cos(x * .pi)) : 0
        case .bicubic:
            let a = -0.5
            if x < 1 { return ((a + 2) * x - (a + 3)) * x * x + 1 }
            return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0
        case .lanczos:
            return position >= -3 && position < 3
                ? Self.sinc(position) * Self.sinc(position / 3) : 0
        }
    }

    private static func sinc(_ x: Double) -> Double {
        x == 0 ? 1 : sin(x * .pi) / (x * .pi)
    }

    private func taps(from size: Int, to count: Int) -> Taps {
        let scale = Double(size) / Double(count)
        let stretch = max(scale, 1)
        let reach = support * stretch
        var taps = Taps()
        for index in 0..<count {
            let center = (Double(index) + 0.5) * scale
            let first = max(0, Int(center - reach + 0.5))
            let end = min(size, Int(center + reach + 0.5))
            let weights = (first..<max(first, end)).map { position in
                weight((Double(position) - center + 0.5) * (1 / stretch))
            }
            taps.append(first: first, weights: weights)
        }
        return taps
    }

    private static func nearest(_ size: Int, _ count: Int) -> [Int] {
        let scale = Double(size) / Double(count)
        var position = scale * 0.5
        return (0..<count).map { _ in
            defer { position += scale }
            return min(size - 1, Int(position))
        }
    }
}

/// For each new pixel the old ones that it is made of, and their weights.
struct Taps: Sendable {
    static let bits: Int32 = 22

    /// First old pixel of each new one.
    private(set) var firsts: [Int] = []
    /// Where the weights of each new pixel start, and where the last end.
    private(set) var starts: [Int] = [0]
    /// In units of 2 to the power of -22.
    private(set) var weights: [Int32] = []

    mutating func append(first: Int, weights new: [Double]) {
        let sum = new.reduce(0, +)
        firsts.append(first)
        for weight in new {
            let share = (sum == 0 ? weight : weight / sum) * Double(Int32(1) << Self.bits)
            weights.append(Int32(share < 0 ? share - 0.5 : share + 0.5))
        }
        starts.append(weights.count)
    }
}
