import Darwin
import Foundation

/// The device and its state.
enum Machine {
    static var device: BenchReport.Device {
        let process = ProcessInfo.processInfo
        let version = process.operatingSystemVersion
        return BenchReport.Device(
            model: model,
            system: system,
            systemVersion:
                "\(version.majorVersion).\(version.minorVersion).\(version.patchVersion)",
            simulator: isSimulator,
            processors: process.processorCount,
            memoryMib: Double(process.physicalMemory) / 1_048_576,
            lowPowerMode: process.isLowPowerModeEnabled)
    }

    static var thermalState: String {
        switch ProcessInfo.processInfo.thermalState {
        case .nominal: return "nominal"
        case .fair: return "fair"
        case .serious: return "serious"
        case .critical: return "critical"
        @unknown default: return "unknown"
        }
    }

    /// What the system charges the process for; nil where it does not tell.
    static var footprintMib: Double? {
        var info = task_vm_info_data_t()
        let words = MemoryLayout<task_vm_info_data_t>.size / MemoryLayout<integer_t>.size
        var count = mach_msg_type_number_t(words)
        let result = withUnsafeMutablePointer(to: &info) { pointer in
            pointer.withMemoryRebound(to: integer_t.self, capacity: words) { rebound in
                task_info(task_self_trap(), task_flavor_t(TASK_VM_INFO), rebound, &count)
            }
        }
        return result == KERN_SUCCESS ? Double(info.phys_footprint) / 1_048_576 : nil
    }

    static var build: String {
        #if DEBUG
            return "debug"
        #else
            return "release"
        #endif
    }

    private static var isSimulator: Bool {
        #if targetEnvironment(simulator)
            return true
        #else
            return false
        #endif
    }

    private static var system: String {
        #if os(macOS)
            return "macOS"
        #else
            return "iOS"
        #endif
    }

    private static var model: String {
        #if os(macOS)
            return text("hw.model")
        #else
            return text("hw.machine")
        #endif
    }

    private static func text(_ name: String) -> String {
        var size = 0
        guard sysctlbyname(name, nil, &size, nil, 0) == 0, size > 0 else {
            return "unknown"
        }
        var bytes = [UInt8](repeating: 0, count: size)
        guard sysctlbyname(name, &bytes, &size, nil, 0) == 0 else {
            return "unknown"
        }
        return String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
}
