// ImageIO: "decodes" files of one line with width, height, channels and
// orientation, then the bytes.
@_exported import CoreGraphics

public enum CGImagePropertyOrientation: UInt32, Sendable {
    case up = 1
    case upMirrored, down, downMirrored, leftMirrored, right, rightMirrored, left
}

public let kCGImagePropertyOrientation: CFString = "Orientation"

public final class CGImageSource {
    let image: CGImage
    let orientation: Int

    init?(_ data: Data) {
        guard let end = data.firstIndex(of: 10) else { return nil }
        let numbers = String(decoding: data[..<end], as: UTF8.self).split(separator: " ")
            .compactMap { Int($0) }
        guard numbers.count == 4 else { return nil }
        let channels = numbers[2]
        let alpha: CGImageAlphaInfo = channels % 2 == 0 ? .last : .none
        image = CGImage(
            width: numbers[0], height: numbers[1], channels: channels,
            space: channels < 3 ? CGColorSpace(gray: ()) : CGColorSpace.standard, alpha: alpha,
            pixels: data.suffix(from: end + 1))
        orientation = numbers[3]
    }
}

public func CGImageSourceCreateWithURL(_ url: CFURL, _ options: CFDictionary?) -> CGImageSource? {
    (try? Data(contentsOf: url)).flatMap { CGImageSource($0) }
}

public func CGImageSourceCreateWithData(_ data: CFData, _ options: CFDictionary?) -> CGImageSource? {
    CGImageSource(data)
}

public func CGImageSourceCreateImageAtIndex(
    _ isrc: CGImageSource, _ index: Int, _ options: CFDictionary?
) -> CGImage? {
    isrc.image
}

/// A dictionary of Core Foundation, which has to be cast.
public func CGImageSourceCopyPropertiesAtIndex(
    _ isrc: CGImageSource, _ index: Int, _ options: CFDictionary?
) -> Any? {
    [kCGImagePropertyOrientation: NSNumber(value: isrc.orientation)]
}
