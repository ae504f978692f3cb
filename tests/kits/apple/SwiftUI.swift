// SwiftUI, as far as an example's views are type-checked: nothing is drawn.
@_exported import UIKit

@MainActor @preconcurrency
public protocol View {
    associatedtype Body: View
    @ViewBuilder var body: Body { get }
}

extension Never: View {
    public var body: Never { return fatalError("no view") }
}

public struct Drawn: View {
    public nonisolated init() {}
    public var body: Never { return fatalError("a view of the system") }
}

@resultBuilder
public enum ViewBuilder {
    public static func buildBlock() -> Drawn { Drawn() }
    public static func buildBlock<each Content: View>(_ content: repeat each Content) -> Drawn {
        Drawn()
    }
    public static func buildIf(_ content: Drawn?) -> Drawn { Drawn() }
    public static func buildEither(first: Drawn) -> Drawn { Drawn() }
    public static func buildEither(second: Drawn) -> Drawn { Drawn() }
}

@MainActor @preconcurrency
public protocol Scene {
    associatedtype Body: Scene
    @SceneBuilder var body: Body { get }
}

extension Never: Scene {}

@resultBuilder
public enum SceneBuilder {
    public static func buildBlock<Content: Scene>(_ content: Content) -> Content { content }
}

public struct WindowGroup<Content: View>: Scene {
    public init(@ViewBuilder content: () -> Content) {}
    public var body: Never { return fatalError("a scene of the system") }
}

@MainActor @preconcurrency
public protocol App {
    associatedtype Body: Scene
    @SceneBuilder var body: Body { get }
    init()
}

extension App {
    public static func main() {}
}

// MARK: state

public protocol ObservableObject: AnyObject {}

@propertyWrapper
public struct Published<Value> {
    public var wrappedValue: Value
    public init(wrappedValue: Value) { self.wrappedValue = wrappedValue }
}

extension Published where Value: ExpressibleByNilLiteral {
    public init() { self.init(wrappedValue: nil) }
}

@propertyWrapper
public struct Binding<Value> {
    public var wrappedValue: Value
    public var projectedValue: Binding<Value> { self }
    public init(wrappedValue: Value) { self.wrappedValue = wrappedValue }
}

@propertyWrapper
public struct State<Value> {
    private final class Box {
        var value: Value
        init(_ value: Value) { self.value = value }
    }
    private let box: Box
    public var wrappedValue: Value {
        get { box.value }
        nonmutating set { box.value = newValue }
    }
    public var projectedValue: Binding<Value> { Binding(wrappedValue: box.value) }
    public init(wrappedValue: Value) { box = Box(wrappedValue) }
}

extension State where Value: ExpressibleByNilLiteral {
    public init() { self.init(wrappedValue: nil) }
}

@MainActor @preconcurrency @propertyWrapper
public struct StateObject<Object: ObservableObject> {
    public let wrappedValue: Object
    public init(wrappedValue make: @autoclosure @escaping () -> Object) {
        wrappedValue = make()
    }
}

@MainActor @preconcurrency @propertyWrapper
public struct ObservedObject<Object: ObservableObject> {
    public var wrappedValue: Object
    public init(wrappedValue: Object) { self.wrappedValue = wrappedValue }
}

// MARK: views

public struct HorizontalAlignment: Sendable {
    public static let leading = HorizontalAlignment()
    public static let center = HorizontalAlignment()
}

public struct VStack<Content: View>: View {
    public init(
        alignment: HorizontalAlignment = .center, spacing: CGFloat? = nil,
        @ViewBuilder content: () -> Content
    ) {}
    public var body: Drawn { Drawn() }
}

public struct HStack<Content: View>: View {
    public init(spacing: CGFloat? = nil, @ViewBuilder content: () -> Content) {}
    public var body: Drawn { Drawn() }
}

public struct TabView<Content: View>: View {
    public init(@ViewBuilder content: () -> Content) {}
    public var body: Drawn { Drawn() }
}

public struct ForEach<Data: RandomAccessCollection, ID: Hashable, Content: View>: View {
    public init(
        _ data: Data, id: KeyPath<Data.Element, ID>,
        @ViewBuilder content: @escaping (Data.Element) -> Content
    ) {}
    public var body: Drawn { Drawn() }
}

public struct Spacer: View {
    public init() {}
    public var body: Drawn { Drawn() }
}

public struct Text: View {
    public init<S: StringProtocol>(_ content: S) {}
    public init(verbatim content: String) {}
    public var body: Drawn { Drawn() }
}

public struct Label: View {
    public init<S: StringProtocol>(_ title: S, systemImage name: String) {}
    public var body: Drawn { Drawn() }
}

public struct ProgressView: View {
    public init<V: BinaryFloatingPoint>(value: V?, total: V = 1.0) {}
    public var body: Drawn { Drawn() }
}

public struct Image: View {
    public init(uiImage: UIImage) {}
    public func resizable() -> Image { self }
    public var body: Drawn { Drawn() }
}

extension View {
    public func padding() -> some View { Drawn() }
    public func scaledToFit() -> some View { Drawn() }
    public func disabled(_ disabled: Bool) -> some View { Drawn() }
    public func tabItem<V: View>(@ViewBuilder _ label: () -> V) -> some View { Drawn() }
    public func onDisappear(perform action: (() -> Void)? = nil) -> some View { Drawn() }
    public func task(
        @_inheritActorContext _ action: @escaping @Sendable () async -> Void
    ) -> some View { Drawn() }
    public func task<T: Equatable>(
        id value: T, @_inheritActorContext _ action: @escaping @Sendable () async -> Void
    ) -> some View { Drawn() }
}

@MainActor @preconcurrency
public protocol UIViewRepresentable: View where Body == Never {
    associatedtype UIViewType: UIView
    func makeUIView(context: Context) -> UIViewType
    func updateUIView(_ uiView: UIViewType, context: Context)
}

public struct UIViewRepresentableContext<Representable: UIViewRepresentable> {}

extension UIViewRepresentable {
    public typealias Context = UIViewRepresentableContext<Self>
    public var body: Never { return fatalError("a view of UIKit") }
}
