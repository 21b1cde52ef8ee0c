// One phase of a bench through Apache Kafka's own client, tuned as its documentation recommends: linger.ms, batch.size
// 1,000,000, acks=all, idempotence; byte arrays, so that no serializer is measured. Prints one JSON object in the shape of
// `ottla bench --json`. Content is the same pure function of the index as in `ottla bench`, and a consumer makes the same
// sum of it, which the harness checks.

import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.lang.management.ManagementFactory;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.Future;
import java.util.concurrent.FutureTask;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;
import org.HdrHistogram.Histogram;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.Callback;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.Metric;
import org.apache.kafka.common.MetricName;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public final class Bench {
    // Records of the pool: over 64 MiB, in turn; and those of Klife.
    private static final int POOL_RECORDS = 262_144;
    private static final int KLIFE_RECORDS = 1_024;
    // Acknowledgement times are in microseconds, up to an hour.
    private static final long ACK_US_MAX = 3_600_000_000L;
    // One record in so many has its way to the acknowledgement timed, as in `ottla bench`.
    private static final int ACK_SAMPLE = 64;
    private static final VarHandle LITTLE = MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.LITTLE_ENDIAN);
    private static final VarHandle BIG = MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.BIG_ENDIAN);
    private static final byte[] HEX = bytes("0123456789abcdef");
    private static final String[] NAMES = {"correlationid", "client_id", "app_version"};
    private static final long[] NAME_WORDS =
        Arrays.stream(NAMES).mapToLong(name -> words(bytes(name))).toArray();
    private static final byte[] CLIENT_ID = bytes("kafkaclitest-producer");
    private static final byte[] APP_VERSION = bytes("1.0.0");
    private static final byte[] FRONT = bytes("{\"message_index\":");
    private static final byte[] MIDDLE = bytes(
        ",\"event_type\":\"sensor_reading\",\"timestamp\":\"2026-06-02T08:00:00Z\",\"data\":{\"temperature\":");
    private static final byte[] HUMIDITY = bytes(",\"humidity\":");
    private static final byte[] END = bytes(",\"status\":\"active\"}}");
    private static final byte[] SENSOR = bytes("sensor_");

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    record Content(byte[] key, byte[] value, List<Header> headers) {}

    // splitmix64
    private long state;

    private long random() {
        state += 0x9E3779B97F4A7C15L;
        long z = (state ^ (state >>> 30)) * 0xBF58476D1CE4E5B9L;
        z = (z ^ (z >>> 27)) * 0x94D049BB133111EBL;
        return z ^ (z >>> 31);
    }

    // Text is made in a buffer that is used again.
    private final byte[] text = new byte[256];
    private int length;

    private void put(byte[] more) {
        System.arraycopy(more, 0, text, length, more.length);
        length += more.length;
    }

    private void number(long number) {
        int digits = 1;
        for (long rest = number / 10; rest > 0; rest /= 10) {
            digits++;
        }
        long rest = number;
        for (int at = length + digits - 1; at >= length; at--) {
            text[at] = (byte) ('0' + rest % 10);
            rest /= 10;
        }
        length += digits;
    }

    private void hundredths(long number) {
        number(number / 100);
        text[length++] = '.';
        text[length++] = (byte) ('0' + number % 100 / 10);
        text[length++] = (byte) ('0' + number % 10);
    }

    private byte[] taken() {
        byte[] all = Arrays.copyOf(text, length);
        length = 0;
        return all;
    }

    Content telemetry(long index) {
        state = index;
        put(SENSOR);
        number(index);
        byte[] key = taken();
        long measures = random();
        put(FRONT);
        number(index);
        put(MIDDLE);
        hundredths(1_000 + (measures & 0xffffffffL) % 3_000);
        put(HUMIDITY);
        hundredths(2_000 + (measures >>> 32) % 7_000);
        put(END);
        byte[] value = taken();
        long high = random() & ~0xf000L | 0x4000;
        long low = random() & ~(3L << 62) | 2L << 62;
        byte[] correlation = new byte[36];
        for (int digit = 0, at = 0; digit < 32; digit++) {
            if (digit == 8 || digit == 12 || digit == 16 || digit == 20) {
                correlation[at++] = '-';
            }
            long word = digit < 16 ? high : low;
            correlation[at++] = HEX[(int) (word >>> (60 - 4 * (digit % 16))) & 15];
        }
        return new Content(key, value, List.of(new RecordHeader(NAMES[0], correlation),
            new RecordHeader(NAMES[1], CLIENT_ID), new RecordHeader(NAMES[2], APP_VERSION)));
    }

    // So many bytes: the index, and random ones.
    private byte[] random(int size, long index) {
        byte[] value = new byte[size + 16];
        BIG.set(value, 0, index);
        for (int at = 8; at < size; at += 8) {
            LITTLE.set(value, at, random());
        }
        return Arrays.copyOf(value, size);
    }

    Content fixed(int size, long index) {
        state = index;
        return new Content(null, random(size, index), List.of());
    }

    Content klife(long index) {
        state = index;
        byte[] value = random(1_000, index);
        return new Content(random(50, index), value, List.of());
    }

    // Klife's record: its topic and its partition are functions of the index. From a pool, so any thread may ask.
    private ProducerRecord<byte[], byte[]> klife(String topic, long index, int partitions, long base) {
        long z = index + 0x9E3779B97F4A7C15L;
        z = (z ^ (z >>> 30)) * 0xBF58476D1CE4E5B9L;
        z = (z ^ (z >>> 27)) * 0x94D049BB133111EBL;
        int partition = (int) Long.remainderUnsigned(z ^ (z >>> 31), partitions);
        Content content = content(index);
        return new ProducerRecord<>(topic + "-" + index % 3, partition, base + index / 1000, content.key(), content.value(), content.headers());
    }

    // Length plus the little-endian 64-bit words of a field; the last word overlaps the one before it, and fields under
    // eight bytes are one word. The same as src/cli/commands/bench/sum.rs.
    static long words(byte[] field) {
        if (field == null) {
            return 0;
        }
        long sum = field.length;
        if (field.length < 8) {
            long word = 0;
            for (int at = field.length - 1; at >= 0; at--) {
                word = word << 8 | field[at] & 0xff;
            }
            return sum + word;
        }
        int at = 0;
        for (; at + 8 <= field.length; at += 8) {
            sum += (long) LITTLE.get(field, at);
        }
        return at < field.length ? sum + (long) LITTLE.get(field, field.length - 8) : sum;
    }

    // A name's bytes are in a String already: comparing reads them all, without an array for each.
    private static long nameWords(String name) {
        for (int known = 0; known < NAMES.length; known++) {
            if (NAMES[known].equals(name)) {
                return NAME_WORDS[known];
            }
        }
        return words(bytes(name));
    }

    static long sumOf(byte[] key, byte[] value, Iterable<Header> headers) {
        long sum = words(key) + 3 * words(value);
        for (Header header : headers) {
            sum += 5 * nameWords(header.key()) + 7 * words(header.value());
        }
        return sum;
    }

    private Content[] pool;
    private int size;

    Bench(String workload, long messages) {
        if (workload.startsWith("fixed:")) {
            size = Integer.parseInt(workload.substring(6));
        } else if (workload.equals("telemetry-pool")) {
            pool = new Content[(int) Math.min(POOL_RECORDS, messages)];
            for (int index = 0; index < pool.length; index++) {
                pool[index] = telemetry(index);
            }
        } else if (workload.equals("klife")) {
            pool = new Content[(int) Math.min(KLIFE_RECORDS, messages)];
            for (int index = 0; index < pool.length; index++) {
                pool[index] = klife(index);
            }
        } else if (!workload.equals("telemetry")) {
            throw new IllegalArgumentException("unknown workload " + workload);
        }
    }

    Content content(long index) {
        if (pool != null) {
            return pool[(int) (index % pool.length)];
        }
        return size > 0 ? fixed(size, index) : telemetry(index);
    }

    private static String status(Path path, String name) throws Exception {
        for (String line : Files.readAllLines(path)) {
            if (line.startsWith(name)) {
                return line.substring(name.length()).trim().split("\\s+")[0];
            }
        }
        return "0";
    }

    private static long cpuNanos() {
        return ((com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean()).getProcessCpuTime();
    }

    private static long contextSwitches() throws Exception {
        long all = 0;
        try (var tasks = Files.newDirectoryStream(Path.of("/proc/self/task"))) {
            for (Path task : tasks) {
                try {
                    all += Long.parseLong(status(task.resolve("status"), "voluntary_ctxt_switches:"))
                        + Long.parseLong(status(task.resolve("status"), "nonvoluntary_ctxt_switches:"));
                } catch (java.io.IOException ended) {
                    continue;
                }
            }
        }
        return all;
    }

    // Value of the client's own metric; of the one without further tags where there are several.
    private static double metric(Map<MetricName, ? extends Metric> metrics, String group, String name) {
        double found = 0;
        for (Metric metric : metrics.values()) {
            MetricName of = metric.metricName();
            if (of.group().equals(group) && of.name().equals(name) && of.tags().size() == 1) {
                found = ((Number) metric.metricValue()).doubleValue();
            }
        }
        return found;
    }

    private static String json(Map<String, ?> fields) {
        List<String> all = new ArrayList<>();
        fields.forEach((name, value) -> {
            String text = value instanceof Number || value instanceof Boolean || String.valueOf(value).startsWith("{")
                ? value.toString() : "\"" + value + "\"";
            all.add("\"" + name + "\":" + text);
        });
        return "{" + String.join(",", all) + "}";
    }

    public static void main(String[] words) throws Exception {
        Map<String, String> args = new HashMap<>();
        for (int at = 0; at + 1 < words.length; at += 2) {
            args.put(words[at], words[at + 1]);
        }
        if (args.containsKey("-test")) {
            test();
            return;
        }
        String phase = args.getOrDefault("-phase", "produce");
        String topic = args.getOrDefault("-t", "ottla-bench");
        long messages = Long.parseLong(args.getOrDefault("-n", "1000000"));
        int partitions = Integer.parseInt(args.getOrDefault("-partitions", "1"));
        String workload = args.getOrDefault("-workload", "telemetry");
        boolean produces = phase.equals("produce");
        String[] mode = args.getOrDefault("-mode", "full").split(":");
        boolean reads = !produces || mode[0].equals("mixed");
        long number = mode.length > 1 ? Long.parseLong(mode[1]) : 0;
        Map<String, Object> sends = new HashMap<>(), takes = new HashMap<>(), settings = new TreeMap<>(), row = new HashMap<>();
        String batchSize = args.getOrDefault("-batch-size", "1000000");
        sends.put("bootstrap.servers", args.get("-b"));
        sends.put(ProducerConfig.KEY_SERIALIZER_CLASS_CONFIG, ByteArraySerializer.class);
        sends.put(ProducerConfig.VALUE_SERIALIZER_CLASS_CONFIG, ByteArraySerializer.class);
        sends.put(ProducerConfig.LINGER_MS_CONFIG, args.getOrDefault("-linger", "100"));
        sends.put(ProducerConfig.BATCH_SIZE_CONFIG, batchSize);
        sends.put(ProducerConfig.ACKS_CONFIG, "all");
        sends.put(ProducerConfig.ENABLE_IDEMPOTENCE_CONFIG, "true");
        sends.put(ProducerConfig.COMPRESSION_TYPE_CONFIG, args.getOrDefault("-compression", "lz4"));
        long perPartition = 2 * Long.parseLong(batchSize) * (mode[0].startsWith("klife") ? 3 : 1);
        sends.put(ProducerConfig.BUFFER_MEMORY_CONFIG, String.valueOf(Math.max(32 << 20, perPartition * partitions)));
        if (args.containsKey("-in-flight")) {
            sends.put(ProducerConfig.MAX_IN_FLIGHT_REQUESTS_PER_CONNECTION, args.get("-in-flight"));
        }
        takes.put("bootstrap.servers", args.get("-b"));
        takes.put(ConsumerConfig.KEY_DESERIALIZER_CLASS_CONFIG, ByteArrayDeserializer.class);
        takes.put(ConsumerConfig.VALUE_DESERIALIZER_CLASS_CONFIG, ByteArrayDeserializer.class);
        takes.put(ConsumerConfig.MAX_POLL_RECORDS_CONFIG, "10000");
        takes.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, "false");
        Bench bench = new Bench(produces ? workload : "telemetry", messages);
        long started = System.nanoTime(), cpuStarted = cpuNanos(), done = messages;
        if (!produces) {
            done = consume(takes, topic, messages, partitions, mode[0].equals("catch-up"), row);
        } else if (mode[0].equals("mixed")) {
            Map<String, Object> read = new HashMap<>();
            var reader = new FutureTask<Void>(() -> consume(takes, topic, messages, partitions, false, read), null);
            new Thread(reader).start();
            bench.produce(sends, topic, messages, partitions, "full", 0, row);
            reader.get();
            row.put("checksum", read.get("checksum"));
        } else if (mode[0].startsWith("klife-") && number > 0) {
            long seconds = Long.parseLong(args.getOrDefault("-seconds", "0"));
            done = bench.klife(sends, topic, messages, partitions, mode[0].equals("klife-sync"), (int) number, seconds, row);
        } else if (List.of("full", "waited", "paced").contains(mode[0])) {
            bench.produce(sends, topic, messages, partitions, mode[0], number, row);
        } else {
            throw new IllegalArgumentException("unknown mode " + mode[0]);
        }
        double seconds = (System.nanoTime() - started) / 1e9;
        long cpu = cpuNanos();
        row.put("phase", phase);
        row.put("seconds", seconds);
        row.put("messages_per_s", done / seconds);
        row.put("cpu_us_per_message", (cpu - cpuStarted) / 1e3 / done);
        row.put("process_cpu_seconds", cpu / 1e9);
        row.put("context_switches", contextSwitches());
        row.put("max_rss_bytes", Long.parseLong(status(Path.of("/proc/self/status"), "VmHWM:")) << 10);
        if (produces) {
            shown(settings, new ProducerConfig(sends).values());
            settings.put("ack_sample", mode[0].matches("waited|paced|klife-sync") ? 1 : ACK_SAMPLE);
        }
        if (reads) {
            shown(settings, new ConsumerConfig(takes).values());
            settings.put("assignment", "manual");
        }
        settings.put("peer", "java");
        var version = new java.util.Properties();
        try (var file = Bench.class.getResourceAsStream("/kafka/kafka-version.properties")) {
            version.load(file);
        }
        settings.put("version", version.getProperty("version"));
        settings.put("workload", workload);
        settings.put("mode", String.join(":", mode));
        settings.put("java", System.getProperty("java.version"));
        settings.put("jvm", String.join(" ", ManagementFactory.getRuntimeMXBean().getInputArguments()));
        settings.put("gc", ManagementFactory.getGarbageCollectorMXBeans().get(0).getName());
        System.out.println("{\"settings\":" + json(settings) + ",\"phases\":[" + json(row) + "]}");
    }

    // As the client has them, set or not; what has to do with security, metrics and nothing else is left out.
    private static void shown(Map<String, Object> settings, Map<String, ?> values) {
        values.forEach((name, value) -> {
            boolean counts = !name.matches("(ssl|sasl|metric|security|auto\\.include|key\\.|value\\.|interceptor).*");
            if (counts && value != null && !value.toString().isEmpty() && !value.equals(List.of())) {
                settings.put(name, value instanceof Class<?> type ? type.getSimpleName() : value);
            }
        });
    }

    private static Map<String, Object> quantiles(Histogram acks) {
        Map<String, Object> quantiles = new HashMap<>();
        Map.of("p50", 50.0, "p99", 99.0, "p999", 99.9).forEach((name, percent) ->
            quantiles.put(name, acks.getValueAtPercentile(percent)));
        return quantiles;
    }

    private static void add(Histogram acks, long sinceNanos) {
        acks.recordValue(Math.min((System.nanoTime() - sinceNanos) / 1000, ACK_US_MAX));
    }

    // What the client counted, at the end.
    private static void count(KafkaProducer<byte[], byte[]> producer, int partitions, Map<String, Object> row) {
        var metrics = producer.metrics();
        long requests = (long) metric(metrics, "producer-metrics", "request-total");
        row.put("requests", requests);
        // A request has one batch of each partition at most; with several it is not told how many.
        row.put("batches", partitions == 1 ? requests : 0);
        row.put("wire_bytes", (long) metric(metrics, "producer-metrics", "outgoing-byte-total"));
    }

    private void produce(Map<String, Object> config, String topic, long messages, int partitions, String mode, long rate,
        Map<String, Object> row) throws Exception {
        boolean waited = mode.equals("waited");
        long base = System.currentTimeMillis();
        AtomicLong failed = new AtomicLong();
        int sample = waited || rate > 0 ? 1 : ACK_SAMPLE;
        var acks = new Histogram(ACK_US_MAX, 3); // only the client's one thread calls back
        Callback done = (metadata, error) -> {
            if (error != null) {
                failed.incrementAndGet();
            }
        };
        try (var producer = new KafkaProducer<byte[], byte[]>(config)) {
            long start = System.nanoTime();
            for (long index = 0; index < messages; index++) {
                long due = rate > 0 ? start + index * 1_000_000_000L / rate : 0;
                for (long left = due - System.nanoTime(); rate > 0 && left > 0; left = due - System.nanoTime()) {
                    LockSupport.parkNanos(left);
                }
                Content content = content(index);
                var record = new ProducerRecord<>(topic, null, base + index / 1000, content.key(), content.value(), content.headers());
                if (waited) {
                    long sent = System.nanoTime();
                    producer.send(record).get();
                    add(acks, sent);
                } else if (index % sample == 0) {
                    // Counted from when it is due, however late those before it were.
                    long sent = rate > 0 ? due : System.nanoTime();
                    producer.send(record, (metadata, error) -> {
                        add(acks, sent);
                        done.onCompletion(metadata, error);
                    });
                } else {
                    producer.send(record, done);
                }
            }
            producer.flush();
            count(producer, partitions, row);
        }
        if (failed.get() > 0) {
            throw new IllegalStateException(failed.get() + " records failed");
        }
        row.put("ack_us", json(quantiles(acks)));
        row.put("messages", messages);
    }

    // Klife's benches: workers that wait for three records at a time, or tasks that only send, each with its share of the
    // indices. Returns how many records were sent.
    private long klife(Map<String, Object> config, String topic, long messages, int partitions, boolean waits, int workers,
        long seconds, Map<String, Object> row) throws Exception {
        long base = System.currentTimeMillis(), start = System.nanoTime();
        AtomicLong failed = new AtomicLong(), sent = new AtomicLong();
        var all = new Histogram(ACK_US_MAX, 3);
        try (var producer = new KafkaProducer<byte[], byte[]>(config)) {
            List<FutureTask<Void>> tasks = new ArrayList<>();
            for (int worker = 0; worker < workers; worker++) {
                long first = messages / 3 * worker / workers * 3, last = messages / 3 * (worker + 1) / workers * 3;
                tasks.add(new FutureTask<>(() -> {
                    var mine = new Histogram(ACK_US_MAX, 3);
                    List<Future<RecordMetadata>> three = new ArrayList<>();
                    long index = first;
                    while (index < last && (seconds == 0 || index % 256 != 0 && !waits || System.nanoTime() - start < seconds * 1_000_000_000L)) {
                        long since = System.nanoTime();
                        if (!waits) {
                            boolean timed = index % ACK_SAMPLE == 0;
                            producer.send(klife(topic, index++, partitions, base), (metadata, error) -> {
                                if (error != null) {
                                    failed.incrementAndGet();
                                }
                                if (timed) {
                                    add(all, since); // only the client's one thread calls back
                                }
                            });
                            continue;
                        }
                        for (int more = 0; more < 3; more++) {
                            three.add(producer.send(klife(topic, index++, partitions, base)));
                        }
                        for (var one : three) {
                            one.get();
                        }
                        three.clear();
                        add(mine, since);
                    }
                    sent.addAndGet(index - first);
                    if (waits) {
                        synchronized (all) {
                            all.add(mine);
                        }
                    }
                    return null;
                }));
            }
            for (var task : tasks) {
                new Thread(task).start();
            }
            for (var task : tasks) {
                task.get();
            }
            producer.flush();
            count(producer, 3 * partitions, row);
        }
        if (failed.get() > 0) {
            throw new IllegalStateException(failed.get() + " records failed");
        }
        row.put("ack_us", json(quantiles(all)));
        row.put("messages", sent.get());
        return sent.get();
    }

    // Reads so many records; to catch up, at least so many and until every partition is read to its end as it was last told.
    private static long consume(Map<String, Object> config, String topic, long messages, int partitions, boolean catchUp,
        Map<String, Object> row) {
        long count = 0, sum = 0;
        try (var consumer = new KafkaConsumer<byte[], byte[]>(config)) {
            Collection<TopicPartition> all = new ArrayList<>();
            for (int partition = 0; partition < partitions; partition++) {
                all.add(new TopicPartition(topic, partition));
            }
            consumer.assign(all);
            consumer.seekToBeginning(all);
            while (count < messages || catchUp && all.stream().anyMatch(one -> consumer.currentLag(one).orElse(1) > 0)) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                    sum += sumOf(record.key(), record.value(), record.headers());
                    count++;
                }
            }
            var metrics = consumer.metrics();
            row.put("requests", (long) metric(metrics, "consumer-fetch-manager-metrics", "fetch-total"));
            row.put("wire_bytes", (long) metric(metrics, "consumer-metrics", "incoming-byte-total"));
        }
        row.put("messages", count);
        row.put("checksum", String.format("%016x", sum));
        return count;
    }

    // The same figures stand in the tests of bench-harness/src/sums.rs and src/cli/commands/bench/sum.rs.
    private static void test() {
        Map.of("telemetry", 0xdcc558c833cb7022L, "telemetry-pool", 0xdcc558c833cb7022L, "fixed:100", 0xc8e77a511267e02fL,
            "klife", 0x0a4e38bb6d5b7c05L)
            .forEach((workload, expected) -> {
                Bench bench = new Bench(workload, 1000);
                long sum = 0;
                for (long index = 0; index < 1000; index++) {
                    Content content = bench.content(index);
                    sum += sumOf(content.key(), content.value(), content.headers());
                }
                if (sum != expected) {
                    throw new AssertionError(workload + ": " + Long.toHexString(sum));
                }
            });
        System.out.println("the workloads have their known sums");
    }
}
