extension PixelImage {
    /// The pixels of columns `x..<x + width` and rows `y..<y + height`, which
    /// lie inside the image.
    func cropped(x: Int, y: Int, width: Int, height: Int) -> PixelImage {
        picked(columns: Array(x..<(x + width)), rows: Array(y..<(y + height)))
    }

    /// The pixels at these columns and rows.
    func picked(columns: [Int], rows: [Int]) -> PixelImage {
        var found: [UInt8] = []
        found.reserveCapacity(columns.count * rows.count * channels)
        for row in rows {
            for column in columns {
                let start = (row * width + column) * channels
                for channel in 0..<channels {
                    found.append(bytes[start + channel])
                }
            }
        }
        return PixelImage(
            width: columns.count, height: rows.count, channels: channels, bytes: found)
    }
}
