import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.internal.CompressionType;
import org.apache.kafka.common.record.internal.ControlRecordType;
import org.apache.kafka.common.record.internal.EndTransactionMarker;
import org.apache.kafka.common.record.internal.MemoryRecords;
import org.apache.kafka.common.record.internal.MemoryRecordsBuilder;
import org.apache.kafka.common.record.internal.Record;
import org.apache.kafka.common.record.internal.RecordBatch;
import org.apache.kafka.common.record.internal.SimpleRecord;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.utils.BufferSupplier;

/**
 * Record batches as the Java client builds them, one line each: name, tab, hex. Written to tests/data/batches.txt.
 *
 * With "verify" it reads such lines from standard input instead (batches that we built) and prints what Java sees:
 * name, tab, then per record offset|timestamp|key|value|headers.
 */
public class Batches {
    static byte[] bytes(String text) {
        return text == null ? null : text.getBytes(StandardCharsets.UTF_8);
    }

    static SimpleRecord record(long timestamp, String key, String value, Header... headers) {
        return new SimpleRecord(timestamp, bytes(key), bytes(value), headers);
    }

    static List<SimpleRecord> records(byte magic) {
        Header[] headers = magic < 2 ? new Header[0] : new Header[] {
            new RecordHeader("a", bytes("1")), new RecordHeader("a", bytes("2")), new RecordHeader("", null),
        };
        List<SimpleRecord> records = new ArrayList<>(Arrays.asList(
            record(1_700_000_000_000L, "key", "value", headers),
            record(1_700_000_000_005L, null, "no key"),
            record(1_699_999_999_000L, "tombstone", null),
            record(1_700_000_000_007L, "", "")));
        for (int i = 0; i < 20; i++) {
            records.add(record(1_700_000_000_010L + i, "k" + i, "the same words again and again, number " + i));
        }
        return records;
    }

    static String hex(ByteBuffer buffer) {
        StringBuilder out = new StringBuilder();
        ByteBuffer copy = buffer.duplicate();
        while (copy.hasRemaining()) {
            out.append(String.format("%02x", copy.get()));
        }
        return out.toString();
    }

    static void print(String name, MemoryRecords records) {
        System.out.println(name + "\t" + hex(records.buffer()));
    }

    static void build() {
        for (byte magic = 0; magic <= 2; magic++) {
            for (CompressionType type : CompressionType.values()) {
                if (type == CompressionType.ZSTD && magic < 2) {
                    continue;
                }
                for (TimestampType time : new TimestampType[] {TimestampType.CREATE_TIME, TimestampType.LOG_APPEND_TIME}) {
                    if (magic == 0 && time == TimestampType.LOG_APPEND_TIME) {
                        continue;
                    }
                    MemoryRecordsBuilder builder = new MemoryRecordsBuilder(ByteBuffer.allocate(1 << 16), magic,
                        Compression.of(type).build(), time, 1000L, 1_800_000_000_000L, RecordBatch.NO_PRODUCER_ID,
                        RecordBatch.NO_PRODUCER_EPOCH, RecordBatch.NO_SEQUENCE, false, false, 5, 1 << 16);
                    for (SimpleRecord record : records(magic)) {
                        builder.append(record);
                    }
                    print("v" + magic + " " + type.name + " " + time.name, builder.build());
                }
            }
        }
        print("v2 none transactional", MemoryRecords.withTransactionalRecords(RecordBatch.MAGIC_VALUE_V2, 2000L,
            Compression.NONE, 4711L, (short) 3, 99, 7, record(1L, "k", "v"), record(2L, "l", "w")));
        print("v2 none idempotent", MemoryRecords.withIdempotentRecords(RecordBatch.MAGIC_VALUE_V2, 0L,
            Compression.NONE, 4711L, (short) 0, Integer.MAX_VALUE, -1, record(1L, "k", "v"), record(2L, "l", "w")));
        for (ControlRecordType type : new ControlRecordType[] {ControlRecordType.COMMIT, ControlRecordType.ABORT}) {
            print("v2 marker " + type, MemoryRecords.withEndTransactionMarker(3000L, 1_700_000_000_000L, 7, 4711L,
                (short) 3, new EndTransactionMarker(type, 12)));
        }
    }

    static String text(ByteBuffer buffer) {
        return buffer == null ? "null" : "\"" + StandardCharsets.UTF_8.decode(buffer.duplicate()) + "\"";
    }

    static void verify() throws Exception {
        java.io.BufferedReader in = new java.io.BufferedReader(new java.io.InputStreamReader(System.in));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] parts = line.split("\t");
            byte[] raw = new byte[parts[1].length() / 2];
            for (int i = 0; i < raw.length; i++) {
                raw[i] = (byte) Integer.parseInt(parts[1].substring(2 * i, 2 * i + 2), 16);
            }
            StringBuilder out = new StringBuilder(parts[0]);
            for (RecordBatch batch : MemoryRecords.readableRecords(ByteBuffer.wrap(raw)).batches()) {
                batch.ensureValid();
                java.util.Iterator<Record> records = batch.streamingIterator(BufferSupplier.NO_CACHING);
                while (records.hasNext()) {
                    Record record = records.next();
                    out.append('\t').append(record.offset()).append('|').append(record.timestamp()).append('|');
                    out.append(text(record.hasKey() ? record.key() : null)).append('|');
                    out.append(text(record.hasValue() ? record.value() : null)).append('|');
                    for (Header header : record.headers()) {
                        byte[] value = header.value();
                        out.append(header.key()).append('=');
                        out.append(text(value == null ? null : ByteBuffer.wrap(value))).append(';');
                    }
                }
            }
            System.out.println(out);
        }
    }

    public static void main(String[] args) throws Exception {
        if (args.length > 0 && args[0].equals("verify")) {
            verify();
        } else {
            build();
        }
    }
}
