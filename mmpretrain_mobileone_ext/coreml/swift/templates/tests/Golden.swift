import CoreGraphics
import Foundation
import ImageIO
import XCTest

/// Inputs, and what was made of them where the model was exported.
struct Golden: Decodable {
    /// What the probabilities may differ by: ||found - wanted|| / ||wanted||.
    struct Tolerance: Decodable {
        let name: String
        let maxRelative: Double
    }

    /// Pixels of the model's size.
    struct Case: Decodable {
        /// File of raw pixels, as `PixelImage.init(raw:width:height:)` takes
        /// them.
        let pixels: String
        let label: String
        /// One a class, in the order of `ModelInfo.labels`.
        let probabilities: [Double]
    }

    /// An image file, and the pixels that the test pipeline makes of it.
    struct Photo: Decodable {
        let file: String
        let prepared: Case
    }

    let tolerance: Tolerance
    /// Of 255, that a pixel of a prepared photo may differ by.
    let maxLevels: Int
    let labels: [String]
    let cases: [Case]
    let photos: [Photo]

    static func load() throws -> Golden {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        return try decoder.decode(Golden.self, from: data("golden.json"))
    }

    static func data(_ name: String) throws -> Data {
        try Data(contentsOf: url(name))
    }

    static func image(_ name: String) throws -> CGImage {
        let source = try XCTUnwrap(CGImageSourceCreateWithURL(url(name) as CFURL, nil))
        return try XCTUnwrap(CGImageSourceCreateImageAtIndex(source, 0, nil))
    }

    static func url(_ name: String) throws -> URL {
        try XCTUnwrap(
            Bundle.module.url(forResource: name, withExtension: nil, subdirectory: "Golden"),
            "\(name) is not among the resources")
    }
}
