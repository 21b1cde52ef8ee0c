// Golden bytes: what Kafka's own generated classes write for every message × version, and whether they read what we write.
//
//   java Golden write FILE.gz      one line per message, version and case: name|version|case|hex|json
//   java Golden read FILE          reads such lines (not compressed), compares bytes and JSON, prints a count
//   java Golden versions FILE.gz   one line per field: name|version|path|hex|version=hex;version=!field;... ("field?" is null)
//   java Golden errors             code|NAME|text of every error
//
// "versions" sets one field of an otherwise default object, writes it at a version that has the field, and then at every
// other version: what is written there, or which field makes the class refuse.
//
// Cases: full (every field differs from its default, arrays of one element), null (nullable fields are null), empty
// (arrays of 0), three (arrays of 3), default (a new object), notags (tagged fields keep their defaults), unknown (tagged
// fields that nobody defines, in every structure). Objects are built by reflection along the classes' own SCHEMA_n.
import java.io.*;
import java.lang.reflect.*;
import java.lang.reflect.Field;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.util.*;
import java.util.zip.*;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;

import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.message.ApiMessageType;
import org.apache.kafka.common.protocol.*;
import org.apache.kafka.common.protocol.types.*;
import org.apache.kafka.common.protocol.types.Type;
import org.apache.kafka.common.record.internal.BaseRecords;
import org.apache.kafka.common.record.internal.MemoryRecords;

public class Golden {
    static final String PACKAGE = "org.apache.kafka.common.message.";
    // Everything in the jar that is neither a request nor a response.
    static final String[] OTHERS = {"RequestHeader", "ResponseHeader", "ConsumerProtocolAssignment",
        "ConsumerProtocolSubscription", "ControlRecordTypeSchema", "DefaultPrincipalData", "EndTxnMarker",
        "KRaftVersionRecord", "LeaderChangeMessage", "SnapshotFooterRecord", "SnapshotHeaderRecord", "VotersRecord"};
    static final String[] CASES = {"full", "null", "empty", "three", "default", "notags", "unknown"};

    public static void main(String[] args) throws Exception {
        switch (args[0]) {
            case "write" -> write(args[1]);
            case "read" -> read(args[1]);
            case "versions" -> versions(args[1]);
            case "errors" -> {
                for (Errors error : Errors.values()) {
                    String text = error.exception() == null ? "" : error.exception().getMessage();
                    System.out.println(error.code() + "|" + error.name() + "|" + text);
                }
            }
            default -> throw new IllegalArgumentException(args[0]);
        }
    }

    /** A message class and its stable versions. */
    record Kind(String name, Class<?> type, int min, int max) {}

    static List<Kind> kinds() throws Exception {
        List<Kind> kinds = new ArrayList<>();
        for (ApiMessageType api : ApiMessageType.values()) {
            if (!api.listeners().contains(ApiMessageType.ListenerType.BROKER)) continue;
            int min = api.lowestSupportedVersion(), max = api.highestSupportedVersion(false);
            for (ApiMessage message : List.of(api.newRequest(), api.newResponse())) {
                String name = message.getClass().getSimpleName();
                kinds.add(new Kind(name.substring(0, name.length() - "Data".length()), message.getClass(), min, max));
            }
        }
        for (String name : OTHERS) {
            Class<?> type = dataClass(name);
            Message message = (Message) type.getConstructor().newInstance();
            kinds.add(new Kind(name, type, message.lowestSupportedVersion(), message.highestSupportedVersion()));
        }
        return kinds;
    }

    /** Requests, responses and headers have the suffix Data, schemas have none. */
    static Class<?> dataClass(String name) throws ClassNotFoundException {
        try {
            return Class.forName(PACKAGE + name + "Data");
        } catch (ClassNotFoundException e) {
            return Class.forName(PACKAGE + name);
        }
    }

    /** A GZIP header without a time, so that the same input gives the same file. */
    static Writer gzip(String path) throws Exception {
        return new OutputStreamWriter(
            new GZIPOutputStream(new FileOutputStream(path)) {{ def.setLevel(9); }}, StandardCharsets.UTF_8);
    }

    static void versions(String path) throws Exception {
        int lines = 0, written = 0, refused = 0;
        try (Writer out = gzip(path)) {
            for (Kind kind : kinds()) {
                Set<String> seen = new HashSet<>();
                for (int from = kind.max; from >= kind.min; from--) {
                    List<List<String>> paths = new ArrayList<>();
                    paths(schema(kind, from), List.of(), paths);
                    for (List<String> fields : paths) {
                        String where = String.join(".", fields);
                        // Every field at the highest version that has it, and at the lowest of all.
                        if (!seen.add(where) && from != kind.min) continue;
                        Message message = (Message) only(kind.type, schema(kind, from), fields);
                        out.write(kind.name + "|" + from + "|" + where + "|" + hex(bytes(message, (short) from)) + "|");
                        String separator = "";
                        for (int to = kind.min; to <= kind.max; to++) {
                            if (to == from) continue;
                            String result = attempt(message, (short) to);
                            out.write(separator + to + "=" + result);
                            separator = ";";
                            if (result.startsWith("!")) refused++; else written++;
                        }
                        out.write('\n');
                        lines++;
                    }
                }
            }
        }
        System.out.println(lines + " lines: " + written + " written at other versions, " + refused + " refused");
    }

    static String attempt(Message message, short version) {
        try {
            return hex(bytes(message, version));
        } catch (org.apache.kafka.common.errors.UnsupportedVersionException e) {
            var matcher = java.util.regex.Pattern.compile("non-default (\\w+) at version").matcher(e.getMessage());
            if (matcher.find()) return "!" + matcher.group(1);
            if (e.getMessage().startsWith("Tagged fields were set")) return "!taggedFields";
            throw e;
        } catch (NullPointerException e) {
            return "!null";
        }
    }

    static Schema schema(Kind kind, int version) throws Exception {
        return ((Schema[]) kind.type.getField("SCHEMAS").get(null))[version];
    }

    /** All fields, whole and inside of structures, and a place for an unknown tagged field in each structure. */
    static void paths(Schema schema, List<String> before, List<List<String>> out) {
        for (BoundField bound : schema.fields()) {
            if (bound.def.type instanceof TaggedFields tags) {
                for (var field : new TreeMap<>(tags.fields()).values()) paths(field.name, field.type, before, out);
                out.add(with(before, "unknown"));
            } else {
                paths(bound.def.name, bound.def.type, before, out);
            }
        }
    }

    static void paths(String name, Type type, List<String> before, List<List<String>> out) {
        out.add(with(before, name));
        // The same field as null. Whether a record set may be null, its type does not tell.
        if (type.isNullable() && type != Type.RECORDS && type != Type.COMPACT_RECORDS) out.add(with(before, name + "?"));
        if (type.arrayElementType().orElse(type) instanceof Schema schema) paths(schema, with(before, name), out);
    }

    static List<String> with(List<String> before, String name) {
        List<String> all = new ArrayList<>(before);
        all.add(name);
        return all;
    }

    /** A default object but for the field at the path; arrays on the way there have one element. */
    static Object only(Class<?> type, Schema schema, List<String> path) throws Exception {
        Object object = type.getDeclaredConstructor().newInstance();
        for (Field field : type.getDeclaredFields()) {
            // Record sets are never null here: some versions do not allow it, which is not what this is about.
            if (Modifier.isStatic(field.getModifiers()) || !BaseRecords.class.isAssignableFrom(field.getType())) continue;
            field.setAccessible(true);
            field.set(object, MemoryRecords.readableRecords(ByteBuffer.wrap(patterned(3))));
        }
        String first = path.get(0);
        if (first.equals("unknown")) {
            ((Message) object).unknownTaggedFields().add(new RawTaggedField(1000, new byte[] {7}));
            return object;
        }
        if (first.endsWith("?")) {
            new Builder("null", false).set(object, first.substring(0, first.length() - 1), Type.NULLABLE_STRING, null);
            return object;
        }
        Type fieldType = null;
        for (BoundField bound : schema.fields()) {
            if (bound.def.type instanceof TaggedFields tags) {
                for (var field : tags.fields().values()) if (field.name.equals(first)) fieldType = field.type;
            } else if (bound.def.name.equals(first)) {
                fieldType = bound.def.type;
            }
        }
        Builder builder = new Builder("full", false);
        if (path.size() == 1) {
            builder.set(object, first, fieldType, null);
        } else {
            builder.set(object, first, fieldType, path.subList(1, path.size()));
        }
        return object;
    }

    static void write(String path) throws Exception {
        int lines = 0;
        try (Writer out = gzip(path)) {
            for (Kind kind : kinds()) {
                for (int version = kind.min; version <= kind.max; version++) {
                    Set<String> seen = new HashSet<>();
                    for (String name : CASES) {
                        Message message = build(kind, version, name);
                        if (message == null) continue;
                        byte[] bytes = bytes(message, (short) version);
                        String line = kind.name + "|" + version + "|" + name + "|" + hex(bytes) + "|"
                            + json(message, (short) version);
                        // A case that changes nothing for this message is not written twice.
                        if (!seen.add(line.replaceFirst("\\|" + name + "\\|", "|"))) continue;
                        out.write(line);
                        out.write('\n');
                        lines++;
                    }
                }
            }
        }
        System.out.println(lines + " golden lines");
    }

    /** Null when the case does not exist for the version. */
    static Message build(Kind kind, int version, String name) throws Exception {
        Schema schema = schema(kind, version);
        if (name.equals("unknown") && tags(schema) == null) return null;
        if (name.equals("default")) {
            Message message = (Message) kind.type.getConstructor().newInstance();
            return isWritable(message, version) ? message : null;
        }
        Message message = (Message) new Builder(name, true).struct(kind.type, schema);
        if (isWritable(message, version)) return message;
        // The schema types do not tell whether record sets may be null; the class does, by refusing.
        message = (Message) new Builder(name, false).struct(kind.type, schema);
        bytes(message, (short) version);
        return message;
    }

    static boolean isWritable(Message message, int version) {
        try {
            bytes(message, (short) version);
            return true;
        } catch (NullPointerException e) {
            return false;
        }
    }

    static TaggedFields tags(Schema schema) {
        for (BoundField field : schema.fields()) {
            if (field.def.type instanceof TaggedFields tags) return tags;
        }
        return null;
    }

    /** Fills objects field by field with values that differ from each other and from the defaults. */
    static class Builder {
        final String name;
        final boolean nullRecords;
        int counter = 0;
        List<String> only = null;

        Builder(String name, boolean nullRecords) {
            this.name = name;
            this.nullRecords = nullRecords;
        }

        Object struct(Class<?> type, Schema schema) throws Exception {
            if (only != null) return Golden.only(type, schema, only);
            Object object = type.getDeclaredConstructor().newInstance();
            for (BoundField bound : schema.fields()) {
                if (bound.def.type instanceof TaggedFields tags) {
                    if (!name.equals("notags")) {
                        for (var tagged : new TreeMap<>(tags.fields()).values()) set(object, tagged.name, tagged.type, null);
                    }
                    if (name.equals("unknown")) {
                        List<RawTaggedField> unknown = ((Message) object).unknownTaggedFields();
                        unknown.add(new RawTaggedField(100, new byte[] {1, 2, (byte) next()}));
                        unknown.add(new RawTaggedField(20_000, new byte[0]));
                        unknown.add(new RawTaggedField(Integer.MAX_VALUE - 1, new byte[200]));
                    }
                } else {
                    set(object, bound.def.name, bound.def.type, null);
                }
            }
            return object;
        }

        /** With a path inside, structures on the way are default objects but for what the path names. */
        void set(Object object, String snake, Type type, List<String> inside) throws Exception {
            only = inside;
            for (Field field : object.getClass().getDeclaredFields()) {
                if (Modifier.isStatic(field.getModifiers()) || !snake(field.getName()).equals(snake)) continue;
                field.setAccessible(true);
                field.set(object, value(field.getType(), field.getGenericType(), type, field.get(object)));
                return;
            }
            throw new IllegalStateException(object.getClass() + " has no field " + snake);
        }

        Object value(Class<?> java, java.lang.reflect.Type generic, Type type, Object now) throws Exception {
            boolean isRecords = BaseRecords.class.isAssignableFrom(java);
            if (name.equals("null") && type.isNullable() && (nullRecords || !isRecords)) return null;
            int n = next();
            if (java == boolean.class) return !(Boolean) now;
            if (java == byte.class) return (byte) (3 + n % 100);
            if (java == short.class) return (short) (300 + n);
            // UINT16 is held in an int, UINT32 in a long.
            if (java == int.class) return type == Type.UINT16 ? 60_000 + n : 70_000 + n;
            if (java == long.class) return type == Type.UNSIGNED_INT32 ? 4_000_000_000L + n : 5_000_000_000L + n;
            if (java == double.class) return 0.5 + n;
            if (java == String.class) return "s" + n + (n % 5 == 0 ? "-é漢😀" : "");
            if (java == Uuid.class) return new Uuid(0x0102030405060708L * n, -n);
            if (java == byte[].class) return patterned(n % 7 + 1);
            if (java == ByteBuffer.class) return ByteBuffer.wrap(patterned(n % 7 + 1));
            if (isRecords) return MemoryRecords.readableRecords(ByteBuffer.wrap(patterned(64 + n % 100)));
            if (Collection.class.isAssignableFrom(java)) return collection(java, generic, type);
            if (type instanceof Schema schema) return struct(java, schema);
            throw new IllegalStateException("cannot fill " + java + " of " + type);
        }

        @SuppressWarnings("unchecked")
        Object collection(Class<?> java, java.lang.reflect.Type generic, Type type) throws Exception {
            // A List<X>, or a class of its own that extends ImplicitLinkedHashMultiCollection<X>.
            Collection<Object> all = java == List.class ? new ArrayList<>()
                : (Collection<Object>) java.getDeclaredConstructor().newInstance();
            var of = (ParameterizedType) (java == List.class ? generic : java.getGenericSuperclass());
            Class<?> element = (Class<?>) of.getActualTypeArguments()[0];
            Type elementType = type.arrayElementType().orElseThrow();
            int count = switch (name) {
                case "empty" -> 0;
                case "three" -> 3;
                default -> 1;
            };
            for (int i = 0; i < count; i++) {
                all.add(elementType instanceof Schema schema ? struct(element, schema)
                    : value(unboxed(element), element, elementType, null));
            }
            return all;
        }

        int next() {
            return ++counter;
        }
    }

    static Class<?> unboxed(Class<?> type) {
        if (type == Byte.class) return byte.class;
        if (type == Short.class) return short.class;
        if (type == Integer.class) return int.class;
        if (type == Long.class) return long.class;
        return type;
    }

    /** Bytes that follow from their count, so that a reader who only knows the count knows them. */
    static byte[] patterned(int size) {
        byte[] bytes = new byte[size];
        for (int i = 0; i < size; i++) bytes[i] = (byte) (size + 37 * i);
        return bytes;
    }

    static String snake(String name) {
        StringBuilder out = new StringBuilder();
        boolean wasCapital = true;
        // Kafka derives both names from the capitalized one: KRaftVersion gives kRaftVersion and kraft_version.
        for (char c : (Character.toUpperCase(name.charAt(0)) + name.substring(1)).toCharArray()) {
            if (Character.isUpperCase(c) && !wasCapital) out.append('_');
            wasCapital = Character.isUpperCase(c);
            out.append(Character.toLowerCase(c));
        }
        return out.toString();
    }

    static byte[] bytes(Message message, short version) {
        ByteBuffer buffer = MessageUtil.toByteBufferAccessor(message, version).buffer();
        byte[] bytes = new byte[buffer.remaining()];
        buffer.get(bytes);
        return bytes;
    }

    /** Through the message's own converter, record sets by their size. */
    static JsonNode json(Message message, short version) throws Exception {
        Class<?> converter = Class.forName(message.getClass().getName() + "JsonConverter");
        Method write = converter.getMethod("write", message.getClass(), short.class, boolean.class);
        return (JsonNode) write.invoke(null, message, version, false);
    }

    static void read(String path) throws Exception {
        ObjectMapper mapper = new ObjectMapper();
        int lines = 0;
        Set<String> names = new HashSet<>();
        for (String line : Files.readAllLines(Path.of(path), StandardCharsets.UTF_8)) {
            String[] parts = line.split("\\|", 5);
            short version = Short.parseShort(parts[1]);
            byte[] bytes = HexFormat.of().parseHex(parts[3]);
            Message message = (Message) dataClass(parts[0]).getConstructor().newInstance();
            ByteBufferAccessor in = new ByteBufferAccessor(ByteBuffer.wrap(bytes));
            message.read(in, version);
            String where = parts[0] + " version " + version + " case " + parts[2];
            if (in.remaining() != 0) throw new IllegalStateException(where + ": " + in.remaining() + " bytes left over");
            if (!Arrays.equals(bytes, bytes(message, version))) throw new IllegalStateException(where + ": other bytes");
            // Through text, because a parsed number's class differs from a built one's.
            JsonNode java = mapper.readTree(json(message, version).toString());
            JsonNode ours = mapper.readTree(parts[4]);
            if (!java.equals(ours)) throw new IllegalStateException(where + "\n java " + java + "\n ours " + ours);
            names.add(parts[0]);
            lines++;
        }
        System.out.println("java read " + lines + " messages of " + names.size() + " kinds that ottla wrote");
    }

    static String hex(byte[] bytes) {
        return HexFormat.of().formatHex(bytes);
    }
}
