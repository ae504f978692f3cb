// AVFoundation and Core Media: a camera that delivers nothing. Its classes are
// not Sendable, as in Apple's SDK.
@_exported import CoreVideo
import UIKit

public struct AVMediaType: Sendable {
    public static let video = AVMediaType()
}

public final class AVCaptureDevice {
    public enum Position: Int, Sendable { case unspecified, back, front }
    public struct DeviceType: Sendable {
        public static let builtInWideAngleCamera = DeviceType()
    }

    public class func `default`(
        _ deviceType: DeviceType, for mediaType: AVMediaType?, position: Position
    ) -> AVCaptureDevice? { nil }

    public class func requestAccess(for mediaType: AVMediaType) async -> Bool { false }
}

open class AVCaptureInput {}

public final class AVCaptureDeviceInput: AVCaptureInput {
    public init(device: AVCaptureDevice) throws {}
}

open class AVCaptureOutput {}
public final class AVCaptureConnection {}
public final class CMSampleBuffer {}

public func CMSampleBufferGetImageBuffer(_ sbuf: CMSampleBuffer) -> CVImageBuffer? { nil }

public protocol AVCaptureVideoDataOutputSampleBufferDelegate: AnyObject {
    func captureOutput(
        _ output: AVCaptureOutput, didOutput sampleBuffer: CMSampleBuffer,
        from connection: AVCaptureConnection)
}

public final class AVCaptureVideoDataOutput: AVCaptureOutput {
    public var alwaysDiscardsLateVideoFrames = true
    override public init() {}
    public func setSampleBufferDelegate(
        _ sampleBufferDelegate: (any AVCaptureVideoDataOutputSampleBufferDelegate)?,
        queue sampleBufferCallbackQueue: DispatchQueue?
    ) {}
}

public final class AVCaptureSession {
    public init() {}
    public func beginConfiguration() {}
    public func commitConfiguration() {}
    public func canAddInput(_ input: AVCaptureInput) -> Bool { true }
    public func canAddOutput(_ output: AVCaptureOutput) -> Bool { true }
    public func addInput(_ input: AVCaptureInput) {}
    public func addOutput(_ output: AVCaptureOutput) {}
    public func startRunning() {}
    public func stopRunning() {}
}

public struct AVLayerVideoGravity: Sendable {
    public static let resizeAspectFill = AVLayerVideoGravity()
}

public final class AVCaptureVideoPreviewLayer: CALayer {
    public var session: AVCaptureSession?
    public var videoGravity = AVLayerVideoGravity.resizeAspectFill
}
