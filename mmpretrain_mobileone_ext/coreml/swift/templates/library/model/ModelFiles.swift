import Foundation

/// The model among the package's resources.
enum ModelFiles {
    /// The file as it was exported.
    static func exported() throws -> URL {
        guard let url = find(ModelInfo.resourceExtension) else {
            throw PredictorError.modelMissing(
                ModelInfo.resourceName + "." + ModelInfo.resourceExtension)
        }
        return url
    }

    /// The file of this name with another suffix; nil where there is none.
    static func find(_ suffix: String) -> URL? {
        Bundle.module.url(
            forResource: ModelInfo.resourceName, withExtension: suffix,
            subdirectory: ModelInfo.resourceFolder)
    }
}
