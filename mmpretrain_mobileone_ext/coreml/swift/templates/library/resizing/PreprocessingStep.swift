/// How pixels are interpolated, by the library that the pipeline calls.
public enum Resampling: Equatable, Sendable {
    /// Pillow: a filter that grows with the reduction; bit for bit the same
    /// where the aspect ratio is kept.
    case pillow(PillowFilter)
    /// OpenCV; bit for bit the same, `.cubic` within one level.
    case openCV(OpenCVFilter)
}

/// Which edge of a photo gets a given length.
public enum ResizedEdge: Sendable {
    case short
    case long
    case width
    case height
}

/// A step of the network's test pipeline, with mmcv's rounding.
public enum PreprocessingStep: Equatable, Sendable {
    /// To this size, ignoring the aspect ratio.
    case resize(width: Int, height: Int, Resampling)
    /// As large as fits, keeping the aspect ratio.
    case resizeInside(long: Int, short: Int, Resampling)
    /// One edge to this length, keeping the aspect ratio.
    case resizeEdge(ResizedEdge, pixels: Int, Resampling)
    /// The middle; less where the image is smaller.
    case centerCrop(width: Int, height: Int)
    /// The middle square of side / (side + padding) of the short edge,
    /// resized.
    case efficientNetCrop(side: Int, padding: Int, Resampling)

    func apply(to image: PixelImage) -> PixelImage {
        switch self {
        case .resize(let width, let height, let resampling):
            return image.resized(width: width, height: height, resampling)
        case .resizeInside(let long, let short, let resampling):
            let size = Self.inside(image, long: long, short: short)
            return image.resized(width: size.width, height: size.height, resampling)
        case .resizeEdge(let edge, let pixels, let resampling):
            let size = Self.size(of: image, edge, pixels)
            return image.resized(width: size.width, height: size.height, resampling)
        case .centerCrop(let width, let height):
            return Self.center(of: image, width, height)
        case .efficientNetCrop(let side, let padding, let resampling):
            return Self.square(of: image, side, padding)
                .resized(width: side, height: side, resampling)
        }
    }

    private static func inside(
        _ image: PixelImage, long: Int, short: Int
    ) -> (width: Int, height: Int) {
        let (width, height) = (Double(image.width), Double(image.height))
        let scale = min(
            Double(long) / max(height, width), Double(short) / min(height, width))
        return (Int(width * scale + 0.5), Int(height * scale + 0.5))
    }

    private static func size(
        of image: PixelImage, _ edge: ResizedEdge, _ pixels: Int
    ) -> (width: Int, height: Int) {
        let (width, height) = (image.width, image.height)
        let setsWidth: Bool
        switch edge {
        case .short: setsWidth = width < height
        case .long: setsWidth = width > height
        case .width: setsWidth = true
        case .height: setsWidth = false
        }
        return setsWidth
            ? (pixels, Int(Double(pixels * height) / Double(width)))
            : (Int(Double(pixels * width) / Double(height)), pixels)
    }

    private static func center(of image: PixelImage, _ width: Int, _ height: Int) -> PixelImage {
        let left = middle(Double(image.width - width))
        let top = middle(Double(image.height - height))
        return image.cropped(
            x: left, y: top,
            width: min(image.width, left + width) - left,
            height: min(image.height, top + height) - top)
    }

    private static func square(of image: PixelImage, _ side: Int, _ padding: Int) -> PixelImage {
        let share = Double(side) / Double(side + padding)
        let crop = share * Double(min(image.width, image.height))
        let left = middle(Double(image.width) - crop)
        let top = middle(Double(image.height) - crop)
        return image.cropped(
            x: left, y: top,
            width: last(left, crop, image.width) - left + 1,
            height: last(top, crop, image.height) - top + 1)
    }

    /// Half of what is left over, rounded as Python does.
    private static func middle(_ rest: Double) -> Int {
        max(0, Int((rest / 2).rounded(.toNearestOrEven)))
    }

    private static func last(_ first: Int, _ length: Double, _ count: Int) -> Int {
        min(count - 1, max(0, Int(Double(first) + length - 1)))
    }
}

extension PixelImage {
    func resized(width: Int, height: Int, _ resampling: Resampling) -> PixelImage {
        guard width > 0, height > 0 else {
            return PixelImage(width: 0, height: 0, channels: channels, bytes: [])
        }
        guard (width, height) != (self.width, self.height) else { return self }
        switch resampling {
        case .pillow(let filter):
            return filter.resize(self, width: width, height: height)
        case .openCV(let filter):
            return filter.resize(self, width: width, height: height)
        }
    }

    /// A photo as the model takes it.
    public func prepared() throws -> PixelImage {
        var image = self
        for step in ModelInfo.steps {
            image = step.apply(to: image)
        }
        guard image.width == ModelInfo.width, image.height == ModelInfo.height else {
            throw PredictorError.wrongSize(
                width: width, height: height, expected: Self.expectation)
        }
        return image
    }

    private static var expectation: String {
        let size = "\(ModelInfo.width) x \(ModelInfo.height)"
        if let step = ModelInfo.missingStep {
            return "give \(size), since this package cannot do \(step)"
        }
        return "the steps (\(ModelInfo.preprocessing)) do not make it \(size)"
    }
}
