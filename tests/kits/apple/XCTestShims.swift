// Attachments, which XCTest has on Apple's systems only.
@_exported import Foundation
import XCTest

public final class XCTAttachment {
    public enum Lifetime: Int { case keepAlways, deleteOnSuccess }
    public var name: String?
    public var lifetime = Lifetime.deleteOnSuccess
    let data: Data

    public init(data payload: Data, uniformTypeIdentifier identifier: String) {
        data = payload
    }
}

extension XCTestCase {
    public func add(_ attachment: XCTAttachment) {
        print("attachment \(attachment.name ?? "") of \(attachment.data.count) bytes")
    }
}
