import CoreVideo

/// How a camera's Y' Cb Cr become R' G' B', after ITU-R BT.601, 709 and 2020.
struct ColorMatrix: Sendable {
    /// What of red and of blue is in Y'.
    let (red, blue): (Double, Double)
    /// Y' of black.
    let black: Int32
    /// Steps of 8 bits from black to white, and over the range of Cb and Cr.
    private let (lumaRange, chromaRange): (Double, Double)

    /// - Parameter isFull: all 256 values are used; else Y' is 16 to 235, Cb
    ///   and Cr are 16 to 240.
    init(red: Double, blue: Double, isFull: Bool) {
        (self.red, self.blue) = (red, blue)
        black = isFull ? 0 : 16
        (lumaRange, chromaRange) = isFull ? (255, 255) : (219, 224)
    }

    /// As the buffer states it; BT.709 where it does not.
    init(of pixelBuffer: CVPixelBuffer, isFull: Bool) {
        let stated =
            CVBufferCopyAttachment(pixelBuffer, kCVImageBufferYCbCrMatrixKey, nil) as? String
        if stated == kCVImageBufferYCbCrMatrix_ITU_R_601_4 as String {
            self.init(red: 0.299, blue: 0.114, isFull: isFull)
        } else if stated == kCVImageBufferYCbCrMatrix_ITU_R_2020 as String {
            self.init(red: 0.2627, blue: 0.0593, isFull: isFull)
        } else {
            self.init(red: 0.2126, blue: 0.0722, isFull: isFull)
        }
    }

    private var green: Double { 1 - red - blue }
    var lumaScale: Double { 255 / lumaRange }
    private var chromaScale: Double { 255 / chromaRange }
    var redOfCr: Double { 2 * (1 - red) * chromaScale }
    var blueOfCb: Double { 2 * (1 - blue) * chromaScale }
    var greenOfCb: Double { -2 * (1 - blue) * blue / green * chromaScale }
    var greenOfCr: Double { -2 * (1 - red) * red / green * chromaScale }
}
