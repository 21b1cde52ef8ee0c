import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** The Java side of the foreign-client proofs. See ci/foreign/README.md for the command line that all of them share. */
public final class Foreign {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final HexFormat HEX = HexFormat.of();

    public static void main(String[] args) throws Exception {
        if (args.length == 0) throw fail("produce or consume");
        Map<String, String> options = new HashMap<>();
        for (int at = 1; at + 1 < args.length; at += 2) options.put(args[at], args[at + 1]);
        Properties common = new Properties();
        common.put("bootstrap.servers", options.get("--bootstrap"));
        common.put("client.id", "foreign-java");
        Duration timeout = Duration.ofMillis((long) (Double.parseDouble(options.getOrDefault("--timeout", "60")) * 1000));
        switch (args[0]) {
            case "produce" -> produce(options, common, timeout);
            case "consume" -> consume(options, common, timeout);
            default -> throw fail("unknown verb " + args[0]);
        }
    }

    private static IllegalStateException fail(String text) {
        System.out.flush();
        System.err.println("java: " + text);
        System.exit(1);
        return new IllegalStateException(text);
    }

    private static byte[] unhex(JsonNode node) {
        return node == null || node.isNull() ? null : HEX.parseHex(node.asText());
    }

    private static String hex(byte[] data) {
        return data == null ? null : HEX.formatHex(data);
    }

    private static void produce(Map<String, String> options, Properties config, Duration timeout) throws Exception {
        String acks = options.getOrDefault("--acks", "all");
        config.put("acks", acks);
        config.put("enable.idempotence", acks.equals("all"));
        config.put("compression.type", options.getOrDefault("--codec", "none"));
        config.put("linger.ms", 20);
        config.put("batch.size", 262144);
        config.put("max.request.size", 8 << 20);
        config.put("delivery.timeout.ms", (int) timeout.toMillis());
        config.put("request.timeout.ms", (int) Math.min(30000, timeout.toMillis() - 100));
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        try (var producer = new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer())) {
            for (String line : Files.readAllLines(Path.of(options.get("--file")))) {
                if (line.isBlank()) continue;
                JsonNode record = JSON.readTree(line);
                List<Header> headers = new ArrayList<>();
                if (record.hasNonNull("headers")) {
                    for (JsonNode pair : record.get("headers")) {
                        headers.add(new RecordHeader(pair.get(0).asText(), unhex(pair.get(1))));
                    }
                }
                sent.add(producer.send(new ProducerRecord<>(options.get("--topic"), record.get("partition").asInt(),
                        record.get("timestamp").asLong(), unhex(record.get("key")), unhex(record.get("value")), headers)));
            }
            producer.flush();
            for (Future<RecordMetadata> one : sent) one.get();
        }
        System.out.println("{\"produced\":" + sent.size() + "}");
    }

    private static void consume(Map<String, String> options, Properties config, Duration timeout) throws Exception {
        config.put("isolation.level", options.getOrDefault("--isolation", "read_uncommitted"));
        config.put("enable.auto.commit", false);
        config.put("auto.offset.reset", "none");
        config.put("check.crcs", true);
        String topic = options.get("--topic");
        String wanted = options.getOrDefault("--partitions", "all");
        List<ConsumerRecord<byte[], byte[]>> records = new ArrayList<>();
        try (var consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            Set<String> chosen = Set.of(wanted.split(","));
            List<TopicPartition> every = consumer.partitionsFor(topic).stream()
                    .filter(info -> wanted.equals("all") || chosen.contains(Integer.toString(info.partition())))
                    .map(info -> new TopicPartition(topic, info.partition())).toList();
            // By hand: no group, no heartbeat, no commit.
            consumer.assign(every);
            Map<TopicPartition, Long> first = consumer.beginningOffsets(every);
            Map<TopicPartition, Long> last = consumer.endOffsets(every);
            every.forEach(partition -> consumer.seek(partition, first.get(partition)));
            long until = System.nanoTime() + timeout.toNanos();
            while (every.stream().anyMatch(partition -> consumer.position(partition) < last.get(partition))) {
                if (System.nanoTime() > until) throw fail(records.size() + " records in " + timeout + "; ends " + last);
                for (var record : consumer.poll(Duration.ofMillis(200))) {
                    if (record.offset() < last.get(new TopicPartition(topic, record.partition()))) records.add(record);
                }
            }
        }
        records.sort(Comparator.<ConsumerRecord<byte[], byte[]>>comparingInt(ConsumerRecord::partition)
                .thenComparingLong(ConsumerRecord::offset));
        try (var out = new PrintStream(new BufferedOutputStream(System.out), false, StandardCharsets.UTF_8)) {
            for (var record : records) {
                ObjectNode line = JSON.createObjectNode();
                line.put("partition", record.partition()).put("offset", record.offset());
                line.put("timestamp", record.timestamp()).put("key", hex(record.key())).put("value", hex(record.value()));
                ArrayNode headers = line.putArray("headers");
                for (Header header : record.headers()) headers.addArray().add(header.key()).add(hex(header.value()));
                out.println(JSON.writeValueAsString(line));
            }
        }
        int count = Integer.parseInt(options.getOrDefault("--count", "-1"));
        if (count >= 0 && count != records.size()) throw fail(records.size() + " records where " + count + " were expected");
    }
}
