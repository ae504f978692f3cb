// Core Foundation as far as the generated package uses it. Linux has no
// bridging, so that `x as CFDictionary` is the same type here.
@_exported import Foundation

public typealias CFString = String
public typealias CFDictionary = [String: Any]
public typealias CFURL = URL
public typealias CFData = Data
public typealias OSType = UInt32

public final class CFAllocator {}
public let kCFAllocatorDefault: CFAllocator? = nil
