// Darwin, and what Foundation has only there.
@_exported import Foundation

public typealias integer_t = Int32
public typealias natural_t = UInt32
public typealias kern_return_t = Int32
public typealias mach_port_t = UInt32
public typealias task_flavor_t = UInt32
public typealias mach_msg_type_number_t = UInt32
public typealias task_info_t = UnsafeMutablePointer<integer_t>

public struct task_vm_info {
    public var virtual_size: UInt64 = 0
    public var phys_footprint: UInt64 = 0
    public init() {}
}
public typealias task_vm_info_data_t = task_vm_info

public let KERN_SUCCESS: Int32 = 0
public let TASK_VM_INFO: Int32 = 22
public func task_self_trap() -> mach_port_t { 1 }

public func task_info(
    _ target_task: mach_port_t, _ flavor: task_flavor_t, _ task_info_out: task_info_t!,
    _ task_info_outCnt: UnsafeMutablePointer<mach_msg_type_number_t>!
) -> kern_return_t {
    guard target_task == task_self_trap(), flavor == task_flavor_t(TASK_VM_INFO),
        Int(task_info_outCnt.pointee) * 4 >= MemoryLayout<task_vm_info>.size
    else {
        return 4
    }
    let info = UnsafeMutableRawPointer(task_info_out)!.assumingMemoryBound(to: task_vm_info.self)
    info.pointee.phys_footprint = 64 * 1_048_576
    return KERN_SUCCESS
}

public func sysctlbyname(
    _ name: UnsafePointer<CChar>!, _ oldp: UnsafeMutableRawPointer!,
    _ oldlenp: UnsafeMutablePointer<Int>!, _ newp: UnsafeMutableRawPointer!, _ newlen: Int
) -> Int32 {
    let value = Array("Fake1,1".utf8) + [0]
    if let target = oldp {
        guard oldlenp.pointee >= value.count else { return -1 }
        target.copyMemory(from: value, byteCount: value.count)
    }
    oldlenp.pointee = value.count
    return 0
}

extension ProcessInfo {
    public enum ThermalState: Int, Sendable {
        case nominal, fair, serious, critical
    }
    public var thermalState: ThermalState { .fair }
    public var isLowPowerModeEnabled: Bool { false }
}
