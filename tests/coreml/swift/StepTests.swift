// LIBRARY and STEPS are filled in by test_swift_toolchain.py.
import Foundation
import ImageIO
import XCTest
@testable import LIBRARY

final class StepTests: XCTestCase {
    struct Size: Decodable {
        let width: Int
        let height: Int
        let steps: Int
        let wide: Int
        let high: Int
        let levels: Int
    }

    let steps: [[PreprocessingStep]] = [
        /* STEPS */
    ]

    func testSteps() throws {
        for (index, size) in try sizes("steps").enumerated() {
            var image = try PixelImage(
                raw: bytes("\(index).in"), width: size.width, height: size.height)
            for step in steps[size.steps] {
                image = step.apply(to: image)
            }
            let wanted = try bytes("\(index).out")
            XCTAssertEqual([image.width, image.height], [size.wide, size.high], "\(index)")
            let found = image.raw
            guard found.count == wanted.count else { continue }
            let levels = zip(found, wanted).map { abs(Int($0) - Int($1)) }.max() ?? 0
            XCTAssertLessThanOrEqual(levels, size.levels, "\(steps[size.steps]) \(size)")
        }
    }

    func testOrientations() throws {
        let raw = try bytes("turned.in")
        for turn in 1...8 {
            let orientation = try XCTUnwrap(
                CGImagePropertyOrientation(rawValue: UInt32(turn)))
            let image = try PixelImage(raw: raw, width: 53, height: 37)
                .upright(from: orientation)
            XCTAssertEqual(image.raw, try bytes("turned-\(turn).out"), "\(turn)")
            XCTAssertEqual(image.width, turn < 5 ? 53 : 37)
        }
    }

    private func sizes(_ name: String) throws -> [Size] {
        try JSONDecoder().decode([Size].self, from: Data(bytes("\(name).json")))
    }

    private func bytes(_ name: String) throws -> [UInt8] {
        let url = try XCTUnwrap(
            Bundle.module.url(forResource: name, withExtension: nil, subdirectory: "Golden"))
        return [UInt8](try Data(contentsOf: url))
    }
}
