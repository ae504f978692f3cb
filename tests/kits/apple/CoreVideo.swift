// Core Video's pixel buffers in plain memory, rows aligned as asked for.
@_exported import AppleBasics

public typealias CVReturn = Int32
public let kCVReturnSuccess: CVReturn = 0
public let kCVReturnInvalidArgument: CVReturn = -6661

public let kCVPixelFormatType_32BGRA: OSType = 0x4247_5241
public let kCVPixelFormatType_OneComponent8: OSType = 0x4C30_3038
public let kCVPixelFormatType_420YpCbCr8BiPlanarVideoRange: OSType = 0x3432_3076
public let kCVPixelFormatType_420YpCbCr8BiPlanarFullRange: OSType = 0x3432_3066

public let kCVImageBufferYCbCrMatrixKey: CFString = "CVImageBufferYCbCrMatrix"
public let kCVImageBufferYCbCrMatrix_ITU_R_601_4: CFString = "ITU_R_601_4"
public let kCVImageBufferYCbCrMatrix_ITU_R_709_2: CFString = "ITU_R_709_2"
public let kCVImageBufferYCbCrMatrix_ITU_R_2020: CFString = "ITU_R_2020"

public let kCVPixelBufferPixelFormatTypeKey: CFString = "PixelFormatType"
public let kCVPixelBufferWidthKey: CFString = "Width"
public let kCVPixelBufferHeightKey: CFString = "Height"
public let kCVPixelBufferBytesPerRowAlignmentKey: CFString = "BytesPerRowAlignment"
public let kCVPixelBufferIOSurfacePropertiesKey: CFString = "IOSurfaceProperties"

public final class CVBuffer {
    let width: Int
    let height: Int
    let format: OSType
    let bytesPerRow: Int
    let memory: UnsafeMutableRawPointer
    /// Of a camera's buffer: Cb and Cr, a pair for four pixels.
    let pairs: UnsafeMutableRawPointer?
    var locks = 0
    var attachments: [String: Any] = [:]

    init(_ width: Int, _ height: Int, _ format: OSType, _ alignment: Int) {
        let row = width * (format == kCVPixelFormatType_32BGRA ? 4 : 1)
        let planar =
            format == kCVPixelFormatType_420YpCbCr8BiPlanarVideoRange
            || format == kCVPixelFormatType_420YpCbCr8BiPlanarFullRange
        self.width = width
        self.height = height
        self.format = format
        bytesPerRow = (row + alignment - 1) / alignment * alignment
        memory = .allocate(byteCount: bytesPerRow * height, alignment: 64)
        memory.initializeMemory(as: UInt8.self, repeating: 7, count: bytesPerRow * height)
        let half = bytesPerRow * ((height + 1) / 2)
        pairs = planar ? .allocate(byteCount: half, alignment: 64) : nil
        pairs?.initializeMemory(as: UInt8.self, repeating: 7, count: half)
    }

    deinit {
        precondition(locks == 0, "a pixel buffer went while it was locked")
        memory.deallocate()
        pairs?.deallocate()
    }
}

public struct CVAttachmentMode: RawRepresentable, Sendable {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    public static let shouldPropagate = CVAttachmentMode(rawValue: 1)
}

public func CVBufferSetAttachment(
    _ buffer: CVBuffer, _ key: CFString, _ value: Any, _ attachmentMode: CVAttachmentMode
) {
    buffer.attachments[key] = value
}

public func CVBufferCopyAttachment(
    _ buffer: CVBuffer, _ key: CFString, _ attachmentMode: UnsafeMutablePointer<CVAttachmentMode>?
) -> Any? {
    buffer.attachments[key]
}

public func CVPixelBufferGetBaseAddressOfPlane(
    _ pixelBuffer: CVPixelBuffer, _ planeIndex: Int
) -> UnsafeMutableRawPointer? {
    guard pixelBuffer.locks > 0, let pairs = pixelBuffer.pairs else { return nil }
    return planeIndex == 0 ? pixelBuffer.memory : pairs
}

public func CVPixelBufferGetBytesPerRowOfPlane(
    _ pixelBuffer: CVPixelBuffer, _ planeIndex: Int
) -> Int {
    pixelBuffer.bytesPerRow
}

public typealias CVImageBuffer = CVBuffer
public typealias CVPixelBuffer = CVImageBuffer

public final class CVPixelBufferPool {
    let attributes: CFDictionary

    init(_ attributes: CFDictionary) {
        self.attributes = attributes
    }
}

public struct CVPixelBufferLockFlags: OptionSet, Sendable {
    public let rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
    public static let readOnly = CVPixelBufferLockFlags(rawValue: 1)
}

@discardableResult
public func CVPixelBufferPoolCreate(
    _ allocator: CFAllocator?, _ poolAttributes: CFDictionary?,
    _ pixelBufferAttributes: CFDictionary?,
    _ poolOut: UnsafeMutablePointer<CVPixelBufferPool?>
) -> CVReturn {
    guard let attributes = pixelBufferAttributes else { return kCVReturnInvalidArgument }
    poolOut.pointee = CVPixelBufferPool(attributes)
    return kCVReturnSuccess
}

@discardableResult
public func CVPixelBufferPoolCreatePixelBuffer(
    _ allocator: CFAllocator?, _ pixelBufferPool: CVPixelBufferPool,
    _ pixelBufferOut: UnsafeMutablePointer<CVPixelBuffer?>
) -> CVReturn {
    let attributes = pixelBufferPool.attributes
    guard let width = attributes[kCVPixelBufferWidthKey] as? Int,
        let height = attributes[kCVPixelBufferHeightKey] as? Int,
        let format = attributes[kCVPixelBufferPixelFormatTypeKey] as? Int,
        attributes[kCVPixelBufferIOSurfacePropertiesKey] is [String: Any]
    else {
        return kCVReturnInvalidArgument
    }
    let alignment = attributes[kCVPixelBufferBytesPerRowAlignmentKey] as? Int ?? 16
    pixelBufferOut.pointee = CVPixelBuffer(width, height, OSType(format), alignment)
    return kCVReturnSuccess
}

@discardableResult
public func CVPixelBufferCreate(
    _ allocator: CFAllocator?, _ width: Int, _ height: Int, _ pixelFormatType: OSType,
    _ pixelBufferAttributes: CFDictionary?,
    _ pixelBufferOut: UnsafeMutablePointer<CVPixelBuffer?>
) -> CVReturn {
    pixelBufferOut.pointee = CVPixelBuffer(width, height, pixelFormatType, 16)
    return kCVReturnSuccess
}

@discardableResult
public func CVPixelBufferLockBaseAddress(
    _ pixelBuffer: CVPixelBuffer, _ lockFlags: CVPixelBufferLockFlags
) -> CVReturn {
    pixelBuffer.locks += 1
    return kCVReturnSuccess
}

@discardableResult
public func CVPixelBufferUnlockBaseAddress(
    _ pixelBuffer: CVPixelBuffer, _ unlockFlags: CVPixelBufferLockFlags
) -> CVReturn {
    pixelBuffer.locks -= 1
    return kCVReturnSuccess
}

public func CVPixelBufferGetBaseAddress(_ pixelBuffer: CVPixelBuffer) -> UnsafeMutableRawPointer? {
    pixelBuffer.locks > 0 ? pixelBuffer.memory : nil
}

public func CVPixelBufferGetBytesPerRow(_ pixelBuffer: CVPixelBuffer) -> Int {
    pixelBuffer.bytesPerRow
}

public func CVPixelBufferGetWidth(_ pixelBuffer: CVPixelBuffer) -> Int {
    pixelBuffer.width
}

public func CVPixelBufferGetHeight(_ pixelBuffer: CVPixelBuffer) -> Int {
    pixelBuffer.height
}

public func CVPixelBufferGetPixelFormatType(_ pixelBuffer: CVPixelBuffer) -> OSType {
    pixelBuffer.format
}
