/// Channels of the model's input.
public enum ColorLayout: String, Codable, Sendable {
    case rgb
    case bgr
    case grayscale

    /// Bytes of one pixel in a raw image, interleaved: R G B, or one gray.
    public var rawChannels: Int {
        self == .grayscale ? 1 : 3
    }

    /// Bytes of one pixel in memory: B G R A, or one gray.
    ///
    /// 32-bit BGRA for an RGB and for a BGR model alike: Core ML puts the channels
    /// into the model's order by itself, and for Core AI this package does.
    var channels: Int {
        self == .grayscale ? 1 : 4
    }
}
