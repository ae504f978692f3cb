// ImageIO: "decodes" X.png by reading X.pixels beside it: one line with width,
// height and channels, then the bytes.
@_exported import CoreGraphics

public enum CGImagePropertyOrientation: UInt32, Sendable {
    case up = 1
    case upMirrored, down, downMirrored, leftMirrored, right, rightMirrored, left
}

public final class CGImageSource {
    let url: URL

    init(_ url: URL) {
        self.url = url
    }
}

public func CGImageSourceCreateWithURL(_ url: CFURL, _ options: CFDictionary?) -> CGImageSource? {
    CGImageSource(url)
}

public func CGImageSourceCreateImageAtIndex(
    _ isrc: CGImageSource, _ index: Int, _ options: CFDictionary?
) -> CGImage? {
    let url = isrc.url.deletingPathExtension().appendingPathExtension("pixels")
    guard let data = try? Data(contentsOf: url), let end = data.firstIndex(of: 10) else {
        return nil
    }
    let numbers = String(decoding: data[..<end], as: UTF8.self).split(separator: " ")
        .compactMap { Int($0) }
    guard numbers.count == 3 else { return nil }
    let space = numbers[2] == 1 ? CGColorSpace(gray: ()) : CGColorSpace(name: CGColorSpace.sRGB)
    return CGImage(
        width: numbers[0], height: numbers[1], colorSpace: space,
        pixels: [UInt8](data.suffix(from: end + 1)))
}
