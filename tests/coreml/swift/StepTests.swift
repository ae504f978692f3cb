// LIBRARY and STEPS are filled in by test_swift_toolchain.py.
import CoreVideo
import Foundation
import ImageIO
import UIKit
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

    /// A frame of 5 x 3 pixels, whose planes are a file's bytes.
    func testCameras() throws {
        let kinds = [
            ("601", kCVImageBufferYCbCrMatrix_ITU_R_601_4),
            ("709", kCVImageBufferYCbCrMatrix_ITU_R_709_2),
            ("2020", kCVImageBufferYCbCrMatrix_ITU_R_2020),
        ]
        let formats = [
            ("video", kCVPixelFormatType_420YpCbCr8BiPlanarVideoRange),
            ("full", kCVPixelFormatType_420YpCbCr8BiPlanarFullRange),
        ]
        for (name, format) in formats {
            for (standard, matrix) in kinds {
                let frame = try camera(format)
                CVBufferSetAttachment(
                    frame, kCVImageBufferYCbCrMatrixKey, matrix, .shouldPropagate)
                try compare(frame, "camera-\(name)-\(standard).out")
            }
            try compare(try camera(format), "camera-\(name)-709.out")
        }
    }

    private func camera(_ format: OSType) throws -> CVPixelBuffer {
        var made: CVPixelBuffer?
        CVPixelBufferCreate(kCFAllocatorDefault, 5, 3, format, nil, &made)
        let frame = try XCTUnwrap(made)
        let planes = try bytes("camera.in")
        CVPixelBufferLockBaseAddress(frame, [])
        for (plane, (start, rows, row)) in [(0, 3, 5), (15, 2, 6)].enumerated() {
            let base = try XCTUnwrap(CVPixelBufferGetBaseAddressOfPlane(frame, plane))
            let stride = CVPixelBufferGetBytesPerRowOfPlane(frame, plane)
            for y in 0..<rows {
                let line = Array(planes[(start + y * row)..<(start + (y + 1) * row)])
                (base + y * stride).copyMemory(from: line, byteCount: row)
            }
        }
        CVPixelBufferUnlockBaseAddress(frame, [])
        return frame
    }

    private func compare(_ frame: CVPixelBuffer, _ file: String) throws {
        let found = try PixelImage(pixelBuffer: frame).raw
        let wanted = try bytes(file)
        XCTAssertEqual(found.count, wanted.count)
        let levels = zip(found, wanted).map { abs(Int($0) - Int($1)) }.max() ?? 255
        XCTAssertLessThanOrEqual(levels, 1, file)
    }

    /// The same turn, however an app states it.
    func testImagesOfUIKit() throws {
        let image = try turnedImage()
        let turns: [(UIImage.Orientation, Int)] = [
            (.up, 1), (.upMirrored, 2), (.down, 3), (.downMirrored, 4), (.leftMirrored, 5),
            (.right, 6), (.rightMirrored, 7), (.left, 8),
        ]
        for (orientation, turn) in turns {
            let wanted = try bytes("turned-\(turn).out")
            let photo = UIImage(cgImage: image, scale: 1, orientation: orientation)
            XCTAssertEqual(try InputImage.uiImage(photo).pixels().raw, wanted, "\(turn)")
            let file = try url("turned-\(turn).pixels")
            XCTAssertEqual(try InputImage.file(file).pixels().raw, wanted, "\(turn)")
            let data = try Data(contentsOf: file)
            XCTAssertEqual(try InputImage.data(data).pixels().raw, wanted, "\(turn)")
        }
        XCTAssertThrowsError(try InputImage.uiImage(UIImage()).pixels())
    }

    private func turnedImage() throws -> CGImage {
        let source = try XCTUnwrap(
            CGImageSourceCreateWithURL(url("turned-1.pixels") as CFURL, nil))
        return try XCTUnwrap(CGImageSourceCreateImageAtIndex(source, 0, nil))
    }

    /// Colors come back as far as 8 bits of a product with alpha can hold them.
    func testPremultipliedColors() throws {
        let raw = try bytes("turned.in")
        var pixels = Data()
        for (index, start) in stride(from: 0, to: raw.count, by: 3).enumerated() {
            let alpha = index % 256
            pixels += raw[start..<(start + 3)].map { UInt8((Int($0) * alpha + 127) / 255) }
            pixels.append(UInt8(alpha))
        }
        let image = CGImage(
            width: 53, height: 37, channels: 4, space: .standard, alpha: .premultipliedLast,
            pixels: pixels)
        let found = try InputImage.cgImage(image).pixels().raw
        for (index, value) in found.enumerated() {
            let alpha = index / 3 % 256
            let bound = alpha == 0 ? 255 : (127 + alpha) / alpha
            XCTAssertLessThanOrEqual(abs(Int(value) - Int(raw[index])), bound)
            XCTAssert(alpha > 0 || value == 0)
        }
    }

    private func sizes(_ name: String) throws -> [Size] {
        try JSONDecoder().decode([Size].self, from: Data(bytes("\(name).json")))
    }

    private func bytes(_ name: String) throws -> [UInt8] {
        [UInt8](try Data(contentsOf: url(name)))
    }

    private func url(_ name: String) throws -> URL {
        try XCTUnwrap(
            Bundle.module.url(forResource: name, withExtension: nil, subdirectory: "Golden"))
    }
}
