extension PixelImage {
    /// New columns as weighted sums of old ones.
    func widened(_ taps: Taps) -> PixelImage {
        let count = taps.firsts.count
        var found = [UInt8](repeating: 255, count: count * height * channels)
        bytes.withUnsafeBufferPointer { source in
            found.withUnsafeMutableBufferPointer { target in
                for y in 0..<height {
                    let old = UnsafeBufferPointer(
                        rebasing: source[(y * width * channels)..<((y + 1) * width * channels)])
                    let new = UnsafeMutableBufferPointer(
                        rebasing: target[(y * count * channels)..<((y + 1) * count * channels)])
                    if channels == 1 {
                        Self.grayRow(old, taps, new)
                    } else {
                        Self.colorRow(old, taps, new)
                    }
                }
            }
        }
        return PixelImage(width: count, height: height, channels: channels, bytes: found)
    }

    private static func grayRow(
        _ old: UnsafeBufferPointer<UInt8>, _ taps: Taps,
        _ new: UnsafeMutableBufferPointer<UInt8>
    ) {
        taps.weights.withUnsafeBufferPointer { weights in
            for x in taps.firsts.indices {
                var gray = Taps.half
                var position = taps.firsts[x]
                for index in taps.starts[x]..<taps.starts[x + 1] {
                    gray &+= Int32(old[position]) &* weights[index]
                    position &+= 1
                }
                new[x] = Taps.byte(gray)
            }
        }
    }

    /// Alpha stays as it is.
    private static func colorRow(
        _ old: UnsafeBufferPointer<UInt8>, _ taps: Taps,
        _ new: UnsafeMutableBufferPointer<UInt8>
    ) {
        taps.weights.withUnsafeBufferPointer { weights in
            for x in taps.firsts.indices {
                var (blue, green, red) = (Taps.half, Taps.half, Taps.half)
                var position = 4 * taps.firsts[x]
                for index in taps.starts[x]..<taps.starts[x + 1] {
                    let weight = weights[index]
                    blue &+= Int32(old[position]) &* weight
                    green &+= Int32(old[position &+ 1]) &* weight
                    red &+= Int32(old[position &+ 2]) &* weight
                    position &+= 4
                }
                new[4 * x] = Taps.byte(blue)
                new[4 * x + 1] = Taps.byte(green)
                new[4 * x + 2] = Taps.byte(red)
            }
        }
    }

    /// New rows as weighted sums of old ones.
    func heightened(_ taps: Taps) -> PixelImage {
        let row = width * channels
        var found: [UInt8] = []
        found.reserveCapacity(row * taps.firsts.count)
        var sums = [Int32](repeating: 0, count: row)
        bytes.withUnsafeBufferPointer { source in
            for y in taps.firsts.indices {
                for index in 0..<row {
                    sums[index] = Taps.half
                }
                var start = taps.firsts[y] * row
                for weight in taps.weights[taps.starts[y]..<taps.starts[y + 1]] {
                    for index in 0..<row {
                        sums[index] &+= Int32(source[start &+ index]) &* weight
                    }
                    start += row
                }
                found.append(contentsOf: sums.map { Taps.byte($0) })
            }
        }
        return PixelImage(
            width: width, height: taps.firsts.count, channels: channels, bytes: found)
    }
}
