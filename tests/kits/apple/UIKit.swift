// UIKit: images with an orientation.
@_exported import CoreGraphics

public final class UIImage: Sendable {
    public enum Orientation: Int, Sendable {
        case up, down, left, right, upMirrored, downMirrored, leftMirrored, rightMirrored
    }

    public let cgImage: CGImage?
    public let imageOrientation: Orientation

    public init(cgImage: CGImage, scale: CGFloat, orientation: Orientation) {
        self.cgImage = cgImage
        imageOrientation = orientation
    }

    /// Made of something else, as of a Core Image one.
    public init() {
        cgImage = nil
        imageOrientation = .up
    }
}

extension UIImage {
    public convenience init?(data: Data) { return nil }
}

open class CALayer {
    public init() {}
}

@MainActor
open class UIView {
    open class var layerClass: AnyClass { CALayer.self }
    public let layer = CALayer()
    public init() {}
}
