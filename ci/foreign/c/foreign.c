/* The librdkafka side of the foreign-client proofs. See ci/foreign/README.md for the command line they share. */
#include <cjson/cJSON.h>
#include <librdkafka/rdkafka.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("librdkafka: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static const char *option(int argc, char **argv, const char *name, const char *otherwise) {
    for (int i = 2; i + 1 < argc; i += 2)
        if (strcmp(argv[i], name) == 0) return argv[i + 1];
    return otherwise;
}

static void set(rd_kafka_conf_t *conf, const char *key, const char *value) {
    char why[512];
    if (rd_kafka_conf_set(conf, key, value, why, sizeof why) != RD_KAFKA_CONF_OK) fail("%s", why);
}

/* The bytes of a hex string; NULL for JSON null, otherwise a malloc'd block even when it is empty. */
static unsigned char *unhex(const cJSON *item, size_t *len) {
    *len = 0;
    if (item == NULL || cJSON_IsNull(item)) return NULL;
    const char *text = cJSON_GetStringValue(item);
    if (text == NULL || strlen(text) % 2 != 0) fail("bad hex");
    *len = strlen(text) / 2;
    unsigned char *out = malloc(*len + 1);
    for (size_t i = 0; i < *len; i++) {
        unsigned byte;
        if (sscanf(text + 2 * i, "%2x", &byte) != 1) fail("bad hex %s", text);
        out[i] = (unsigned char)byte;
    }
    return out;
}

static cJSON *tohex(const void *data, size_t len) {
    if (data == NULL) return cJSON_CreateNull();
    char *text = malloc(2 * len + 1);
    for (size_t i = 0; i < len; i++) sprintf(text + 2 * i, "%02x", ((const unsigned char *)data)[i]);
    text[2 * len] = 0;
    cJSON *item = cJSON_CreateString(text);
    free(text);
    return item;
}

static long delivered, failed;

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque) {
    (void)rk, (void)opaque;
    if (message->err) {
        failed++;
        fprintf(stderr, "librdkafka: delivery: %s\n", rd_kafka_err2str(message->err));
    } else {
        delivered++;
    }
}

static void produce(int argc, char **argv, rd_kafka_conf_t *conf, const char *topic, double timeout) {
    const char *acks = option(argc, argv, "--acks", "all");
    set(conf, "compression.codec", option(argc, argv, "--codec", "none"));
    set(conf, "acks", acks);
    if (strcmp(acks, "all") == 0) set(conf, "enable.idempotence", "true");
    set(conf, "linger.ms", "20");
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    char why[512];
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
    if (rk == NULL) fail("%s", why);
    FILE *in = fopen(option(argc, argv, "--file", ""), "r");
    if (in == NULL) fail("cannot open --file");
    char *line = NULL;
    size_t room = 0;
    long count = 0;
    while (getline(&line, &room, in) > 0) {
        if (strspn(line, " \r\n\t") == strlen(line)) continue;
        cJSON *record = cJSON_Parse(line);
        if (record == NULL) fail("line %ld: not JSON", count + 1);
        size_t key_len, value_len;
        unsigned char *key = unhex(cJSON_GetObjectItem(record, "key"), &key_len);
        unsigned char *value = unhex(cJSON_GetObjectItem(record, "value"), &value_len);
        rd_kafka_headers_t *headers = rd_kafka_headers_new(4);
        const cJSON *pair;
        cJSON_ArrayForEach(pair, cJSON_GetObjectItem(record, "headers")) {
            size_t len;
            unsigned char *data = unhex(cJSON_GetArrayItem(pair, 1), &len);
            rd_kafka_header_add(headers, cJSON_GetStringValue(cJSON_GetArrayItem(pair, 0)), -1, data, (ssize_t)len);
            free(data);
        }
        for (;;) {
            rd_kafka_resp_err_t err = rd_kafka_producev(
                rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(cJSON_GetObjectItem(record, "partition")->valueint),
                RD_KAFKA_V_TIMESTAMP((int64_t)cJSON_GetObjectItem(record, "timestamp")->valuedouble),
                RD_KAFKA_V_KEY(key, key_len), RD_KAFKA_V_VALUE(value, value_len), RD_KAFKA_V_HEADERS(headers),
                RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
            if (err == RD_KAFKA_RESP_ERR_NO_ERROR) break;
            if (err != RD_KAFKA_RESP_ERR__QUEUE_FULL) fail("produce: %s", rd_kafka_err2str(err));
            rd_kafka_poll(rk, 50);
        }
        rd_kafka_poll(rk, 0);
        free(key);
        free(value);
        cJSON_Delete(record);
        count++;
    }
    free(line);
    fclose(in);
    rd_kafka_resp_err_t err = rd_kafka_flush(rk, (int)(timeout * 1000));
    if (err) fail("flush: %s", rd_kafka_err2str(err));
    if (failed > 0 || delivered != count) fail("%ld of %ld delivered, %ld failed", delivered, count, failed);
    rd_kafka_destroy(rk);
    printf("{\"produced\":%ld}\n", count);
}

struct line {
    int32_t partition;
    int64_t offset;
    char *text;
};

static int by_place(const void *a, const void *b) {
    const struct line *x = a, *y = b;
    if (x->partition != y->partition) return x->partition < y->partition ? -1 : 1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static char *describe(const rd_kafka_message_t *m) {
    cJSON *out = cJSON_CreateObject();
    cJSON_AddNumberToObject(out, "partition", m->partition);
    cJSON_AddNumberToObject(out, "offset", (double)m->offset);
    rd_kafka_timestamp_type_t kind;
    cJSON_AddNumberToObject(out, "timestamp", (double)rd_kafka_message_timestamp(m, &kind));
    cJSON_AddItemToObject(out, "key", tohex(m->key, m->key_len));
    cJSON_AddItemToObject(out, "value", tohex(m->payload, m->len));
    cJSON *headers = cJSON_AddArrayToObject(out, "headers");
    rd_kafka_headers_t *found;
    if (rd_kafka_message_headers(m, &found) == RD_KAFKA_RESP_ERR_NO_ERROR) {
        const char *name;
        const void *value;
        size_t len;
        for (size_t i = 0; !rd_kafka_header_get_all(found, i, &name, &value, &len); i++) {
            cJSON *pair = cJSON_CreateArray();
            cJSON_AddItemToArray(pair, cJSON_CreateString(name));
            cJSON_AddItemToArray(pair, tohex(value, len));
            cJSON_AddItemToArray(headers, pair);
        }
    }
    char *text = cJSON_PrintUnformatted(out);
    cJSON_Delete(out);
    return text;
}

static void consume(int argc, char **argv, rd_kafka_conf_t *conf, const char *topic, double timeout) {
    set(conf, "group.id", "unused-no-subscription");
    set(conf, "enable.auto.commit", "false");
    set(conf, "auto.offset.reset", "error");
    set(conf, "check.crcs", "true");
    set(conf, "isolation.level", option(argc, argv, "--isolation", "read_uncommitted"));
    set(conf, "enable.partition.eof", "true");
    char why[512];
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof why);
    if (rk == NULL) fail("%s", why);
    rd_kafka_poll_set_consumer(rk);
    const char *wanted = option(argc, argv, "--partitions", "all");
    rd_kafka_topic_t *handle = rd_kafka_topic_new(rk, topic, NULL);
    const struct rd_kafka_metadata *meta;
    rd_kafka_resp_err_t err = rd_kafka_metadata(rk, 0, handle, &meta, (int)(timeout * 1000));
    if (err || meta->topic_cnt != 1 || meta->topics[0].err) fail("metadata of %s: %s", topic, rd_kafka_err2str(err));
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(8);
    for (int i = 0; i < meta->topics[0].partition_cnt; i++) {
        int32_t id = meta->topics[0].partitions[i].id;
        char needle[32], stack[4096];
        snprintf(needle, sizeof needle, ",%d,", (int)id);
        snprintf(stack, sizeof stack, ",%s,", wanted);
        if (strcmp(wanted, "all") != 0 && strstr(stack, needle) == NULL) continue;
        rd_kafka_topic_partition_list_add(list, topic, id)->offset = RD_KAFKA_OFFSET_BEGINNING;
    }
    rd_kafka_metadata_destroy(meta);
    rd_kafka_topic_destroy(handle);
    if ((err = rd_kafka_assign(rk, list))) fail("assign: %s", rd_kafka_err2str(err));
    int open = list->cnt;
    size_t count = 0, room = 0;
    struct line *lines = NULL;
    for (double until = now() + timeout; open > 0;) {
        if (now() > until) fail("%zu records in %.0f s, %d partitions unfinished", count, timeout, open);
        rd_kafka_message_t *m = rd_kafka_consumer_poll(rk, 200);
        if (m == NULL) continue;
        if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
            open--;
        } else if (m->err) {
            fail("fetch: %s", rd_kafka_message_errstr(m));
        } else {
            if (count == room) lines = realloc(lines, (room = room ? 2 * room : 1024) * sizeof *lines);
            lines[count++] = (struct line){m->partition, m->offset, describe(m)};
        }
        rd_kafka_message_destroy(m);
    }
    qsort(lines, count, sizeof *lines, by_place);
    for (size_t i = 0; i < count; i++) puts(lines[i].text);
    fflush(stdout);
    rd_kafka_topic_partition_list_destroy(list);
    rd_kafka_consumer_close(rk);
    rd_kafka_destroy(rk);
    long expected = atol(option(argc, argv, "--count", "-1"));
    if (expected >= 0 && (size_t)expected != count) fail("%zu records where %ld were expected", count, expected);
}

int main(int argc, char **argv) {
    if (argc < 2) fail("produce or consume");
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    set(conf, "bootstrap.servers", option(argc, argv, "--bootstrap", ""));
    set(conf, "client.id", "foreign-librdkafka");
    const char *topic = option(argc, argv, "--topic", "");
    double timeout = atof(option(argc, argv, "--timeout", "60"));
    if (strcmp(argv[1], "produce") == 0) produce(argc, argv, conf, topic, timeout);
    else if (strcmp(argv[1], "consume") == 0) consume(argc, argv, conf, topic, timeout);
    else fail("unknown verb %s", argv[1]);
    return 0;
}
