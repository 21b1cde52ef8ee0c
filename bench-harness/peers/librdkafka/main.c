/* One phase of a bench through librdkafka's C API, tuned as its documentation recommends: producev with headers and
 * linger; the batch queue to read from, with a long local queue. Prints one JSON object in the shape of
 * `ottla bench --json`. Content is the same pure function of the index as in `ottla bench`, and a consumer makes the same
 * sum of it, which the harness checks. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <librdkafka/rdkafka.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

/* Records of the pool: over 64 MiB, in turn. */
#define POOL_RECORDS 262144
/* One record in so many has its way to the acknowledgement timed, as in `ottla bench`. */
#define ACK_SAMPLE 64
#define READ_AT_ONCE 2000

static const char *const NAMES[3] = {"correlationid", "client_id", "app_version"};
static const char CLIENT_ID[] = "kafkaclitest-producer", APP_VERSION[] = "1.0.0";

typedef struct {
  char key[32], value[200], correlation[36];
  size_t key_len, value_len;
} content_t;

static void fail(const char *what, const char *why) {
  fprintf(stderr, "librdkafka: %s: %s\n", what, why);
  exit(1);
}

static uint64_t splitmix(uint64_t *state) {
  uint64_t z = *state += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

static char *number(char *out, uint64_t n) {
  char digits[20];
  int at = 20;
  do {
    digits[--at] = (char)('0' + n % 10);
  } while (n /= 10);
  memcpy(out, digits + at, (size_t)(20 - at));
  return out + 20 - at;
}

static char *hundredths(char *out, uint64_t n) {
  out = number(out, n / 100);
  *out++ = '.';
  *out++ = (char)('0' + n % 100 / 10);
  *out++ = (char)('0' + n % 10);
  return out;
}

#define PUT(out, text) (memcpy(out, text, sizeof(text) - 1), (out) + sizeof(text) - 1)

static void telemetry(content_t *c, uint64_t index) {
  uint64_t state = index, measures = splitmix(&state);
  char *out = number(PUT(c->key, "sensor_"), index);
  c->key_len = (size_t)(out - c->key);
  out = number(PUT(c->value, "{\"message_index\":"), index);
  out = PUT(out, ",\"event_type\":\"sensor_reading\",\"timestamp\":\"2026-06-02T08:00:00Z\",\"data\":{\"temperature\":");
  out = hundredths(out, 1000 + (measures & 0xffffffff) % 3000);
  out = hundredths(PUT(out, ",\"humidity\":"), 2000 + (measures >> 32) % 7000);
  out = PUT(out, ",\"status\":\"active\"}}");
  c->value_len = (size_t)(out - c->value);
  uint64_t high = (splitmix(&state) & ~UINT64_C(0xf000)) | 0x4000;
  uint64_t low = (splitmix(&state) & ~(UINT64_C(3) << 62)) | UINT64_C(2) << 62;
  out = c->correlation;
  for (int digit = 0; digit < 32; digit++) {
    if (digit == 8 || digit == 12 || digit == 16 || digit == 20) *out++ = '-';
    *out++ = "0123456789abcdef"[(digit < 16 ? high : low) >> (60 - 4 * (digit % 16)) & 15];
  }
}

/* `value` has room for eight bytes more than `size`. */
static void fixed(char *value, size_t size, uint64_t index) {
  uint64_t state = index, front = __builtin_bswap64(index);
  memcpy(value, &front, 8);
  for (size_t at = 8; at < size; at += 8) {
    uint64_t word = splitmix(&state);
    memcpy(value + at, &word, 8);
  }
}

/* Length plus the little-endian 64-bit words of a field; the last word overlaps the one before it, and fields under eight
 * bytes are one word. The same as src/cli/commands/bench/sum.rs. */
static uint64_t words(const void *field, size_t len) {
  const unsigned char *bytes = field;
  uint64_t sum = len, word = 0;
  if (len < 8) {
    for (size_t at = len; at > 0; at--) word = word << 8 | bytes[at - 1];
    return sum + word;
  }
  size_t at = 0;
  for (; at + 8 <= len; at += 8) {
    memcpy(&word, bytes + at, 8);
    sum += word;
  }
  if (at < len) {
    memcpy(&word, bytes + len - 8, 8);
    sum += word;
  }
  return sum;
}

/* What librdkafka says of requests as they pass; its threads call. */
static atomic_ulong requests, sent_bytes, received_bytes;
static int counted_api;

static rd_kafka_resp_err_t on_sent(rd_kafka_t *rk, int fd, const char *broker, int32_t id, int16_t api, int16_t version,
                                   int32_t correlation, size_t size, void *opaque) {
  (void)rk, (void)fd, (void)broker, (void)id, (void)version, (void)correlation, (void)opaque;
  if (api == counted_api) {
    atomic_fetch_add(&requests, 1);
    atomic_fetch_add(&sent_bytes, size);
  }
  return RD_KAFKA_RESP_ERR_NO_ERROR;
}

static rd_kafka_resp_err_t on_received(rd_kafka_t *rk, int fd, const char *broker, int32_t id, int16_t api, int16_t version,
                                       int32_t correlation, size_t size, int64_t rtt, rd_kafka_resp_err_t err, void *opaque) {
  (void)rk, (void)fd, (void)broker, (void)id, (void)version, (void)correlation, (void)rtt, (void)err, (void)opaque;
  if (api == counted_api) atomic_fetch_add(&received_bytes, size);
  return RD_KAFKA_RESP_ERR_NO_ERROR;
}

static rd_kafka_resp_err_t on_new(rd_kafka_t *rk, const rd_kafka_conf_t *conf, void *opaque, char *text, size_t size) {
  (void)conf, (void)opaque, (void)text, (void)size;
  rd_kafka_interceptor_add_on_request_sent(rk, "bench", on_sent, NULL);
  return rd_kafka_interceptor_add_on_response_received(rk, "bench", on_received, NULL);
}

static uint64_t now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static uint64_t failed, acked;

/* HdrHistogram's buckets for three significant digits (Debian has its C library in no stable release): values are exact
 * below 2,048, and each power of two from there on has 1,024 buckets. */
#define ACK_US_MAX UINT64_C(3600000000)
static uint64_t buckets[24 * 1024];

static void add(uint64_t us) {
  if (us > ACK_US_MAX) us = ACK_US_MAX;
  int shift = us < 2048 ? 0 : 53 - __builtin_clzll(us);
  buckets[(uint64_t)shift * 1024 + (us >> shift)]++;
  acked++;
}

/* The highest value that is counted where this part of all is reached. */
static uint64_t at_quantile(double quantile) {
  uint64_t wanted = (uint64_t)(quantile * (double)acked + 0.5), seen = 0;
  for (uint64_t place = 0; place < sizeof buckets / sizeof *buckets; place++) {
    seen += buckets[place];
    if (seen >= (wanted ? wanted : 1)) {
      uint64_t shift = place < 2048 ? 0 : place / 1024 - 1;
      return ((place - shift * 1024 + 1) << shift) - 1;
    }
  }
  return 0;
}

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque) {
  (void)rk, (void)opaque;
  failed += m->err != 0;
  if (m->_private) add(now_us() - (uint64_t)(uintptr_t)m->_private);
}

static void set(rd_kafka_conf_t *conf, const char *name, const char *value) {
  char why[256];
  rd_kafka_conf_res_t done = rd_kafka_conf_set(conf, name, value, why, sizeof why);
  /* Older versions do not have all. */
  if (done == RD_KAFKA_CONF_UNKNOWN) return;
  if (done != RD_KAFKA_CONF_OK) fail(name, why);
}

/* All that have a value in text, set or not; what has to do with security is left out. */
static void print_settings(const char **dump, size_t count) {
  for (size_t at = 0; at + 1 < count; at += 2) {
    const char *name = dump[at], *value = dump[at + 1];
    int counts = strncmp(name, "ssl.", 4) && strncmp(name, "sasl.", 5) && strncmp(value, "0x", 2) && *value && !strpbrk(value, "\"\\\n");
    if (counts) printf(",\"%s\":\"%s\"", name, value);
  }
}

typedef struct {
  const char *bootstrap, *topic, *phase, *workload, *compression, *linger, *mode, *batch_size, *in_flight;
  uint64_t messages;
  int partitions;
  size_t size; /* of a fixed workload, else 0 */
  content_t *pool;
} job_t;

static void make_pool(job_t *job) {
  if (!strncmp(job->workload, "fixed:", 6)) {
    job->size = strtoul(job->workload + 6, NULL, 10);
  } else if (!strcmp(job->workload, "telemetry-pool")) {
    uint64_t count = job->messages < POOL_RECORDS ? job->messages : POOL_RECORDS;
    job->pool = malloc(count * sizeof *job->pool);
    if (!job->pool) fail("pool", "no memory");
    for (uint64_t index = 0; index < count; index++) telemetry(&job->pool[index], index);
  } else if (strcmp(job->workload, "telemetry")) {
    fail("unknown workload", job->workload);
  }
}

static rd_kafka_headers_t *headers_of(const content_t *c) {
  rd_kafka_headers_t *headers = rd_kafka_headers_new(3);
  rd_kafka_header_add(headers, NAMES[0], 13, c->correlation, 36);
  rd_kafka_header_add(headers, NAMES[1], 9, CLIENT_ID, sizeof CLIENT_ID - 1);
  rd_kafka_header_add(headers, NAMES[2], 11, APP_VERSION, sizeof APP_VERSION - 1);
  return headers;
}

static void produce(const job_t *job, rd_kafka_t *rk, rd_kafka_topic_t *topic) {
  struct timespec wall;
  clock_gettime(CLOCK_REALTIME, &wall);
  int64_t base = (int64_t)wall.tv_sec * 1000 + wall.tv_nsec / 1000000;
  char *value = malloc(job->size + 16);
  content_t made;
  int waited = !strcmp(job->mode, "waited");
  uint64_t rate = strncmp(job->mode, "paced:", 6) ? 0 : strtoull(job->mode + 6, NULL, 10), start = now_us();
  for (uint64_t index = 0; index < job->messages; index++) {
    const content_t *c = &made;
    uint64_t due = rate ? start + index * 1000000 / rate : 0;
    while (rate && now_us() < due) {
      rd_kafka_poll(rk, 0);
      uint64_t now = now_us();
      if (now < due) usleep((useconds_t)(due - now));
    }
    if (job->size) {
      fixed(value, job->size, index);
    } else if (job->pool) {
      c = &job->pool[index % (job->messages < POOL_RECORDS ? job->messages : POOL_RECORDS)];
    } else {
      telemetry(&made, index);
    }
    /* Counted from when it is due, however late those before it were. */
    uint64_t since = rate ? due : waited || index % ACK_SAMPLE == 0 ? now_us() : 0;
    void *opaque = (void *)(uintptr_t)since;
    /* The pool stays, so nothing needs to be copied from it. */
    int flags = job->pool ? 0 : RD_KAFKA_MSG_F_COPY;
    int64_t at = base + (int64_t)(index / 1000);
    for (;;) {
      rd_kafka_resp_err_t err;
      if (job->size) {
        err = rd_kafka_producev(rk, RD_KAFKA_V_RKT(topic), RD_KAFKA_V_MSGFLAGS(flags), RD_KAFKA_V_TIMESTAMP(at),
                                RD_KAFKA_V_VALUE(value, job->size), RD_KAFKA_V_OPAQUE(opaque), RD_KAFKA_V_END);
      } else {
        rd_kafka_headers_t *headers = headers_of(c);
        err = rd_kafka_producev(rk, RD_KAFKA_V_RKT(topic), RD_KAFKA_V_MSGFLAGS(flags), RD_KAFKA_V_TIMESTAMP(at),
                                RD_KAFKA_V_KEY(c->key, c->key_len), RD_KAFKA_V_VALUE((void *)c->value, c->value_len),
                                RD_KAFKA_V_HEADERS(headers), RD_KAFKA_V_OPAQUE(opaque), RD_KAFKA_V_END);
        if (err) rd_kafka_headers_destroy(headers);
      }
      if (!err) break;
      if (err != RD_KAFKA_RESP_ERR__QUEUE_FULL) fail("produce", rd_kafka_err2str(err));
      rd_kafka_poll(rk, 10);
    }
    while (waited && acked <= index) rd_kafka_poll(rk, 1000);
    if (index % 1024 == 0) rd_kafka_poll(rk, 0);
  }
  if (rd_kafka_flush(rk, 600000)) fail("flush", "time is up");
  if (failed) fail("produce", "records failed");
  free(value);
}

static uint64_t sum_of(const rd_kafka_message_t *m) {
  uint64_t sum = words(m->key, m->key_len) + 3 * words(m->payload, m->len);
  rd_kafka_headers_t *headers;
  if (rd_kafka_message_headers(m, &headers)) return sum;
  const char *name;
  const void *value;
  size_t size;
  for (size_t at = 0; !rd_kafka_header_get_all(headers, at, &name, &value, &size); at++)
    sum += 5 * words(name, strlen(name)) + 7 * words(value, size);
  return sum;
}

/* Whether a partition is not read to its end as the last answer told it; nobody is asked. */
static int is_behind(const job_t *job, rd_kafka_t *rk, const int64_t *next) {
  for (int partition = 0; partition < job->partitions; partition++) {
    int64_t first = -1, end = -1;
    if (rd_kafka_get_watermark_offsets(rk, job->topic, partition, &first, &end) || end < 0 || next[partition] < end) return 1;
  }
  return 0;
}

/* So many records; to catch up at least so many, and until the end. `job->messages` tells how many it were. */
static uint64_t consume(job_t *job, rd_kafka_t *rk) {
  int catches_up = !strcmp(job->mode, "catch-up");
  int64_t *next = calloc((size_t)job->partitions, sizeof *next);
  if (!next) fail("consume", "no memory");
  rd_kafka_topic_partition_list_t *all = rd_kafka_topic_partition_list_new(job->partitions);
  for (int partition = 0; partition < job->partitions; partition++)
    rd_kafka_topic_partition_list_add(all, job->topic, partition)->offset = RD_KAFKA_OFFSET_BEGINNING;
  if (rd_kafka_assign(rk, all)) fail("assign", job->topic);
  rd_kafka_topic_partition_list_destroy(all);
  rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(rk);
  static rd_kafka_message_t *got[READ_AT_ONCE];
  uint64_t count = 0, sum = 0;
  while (count < job->messages || (catches_up && is_behind(job, rk, next))) {
    ssize_t n = rd_kafka_consume_batch_queue(queue, 1000, got, READ_AT_ONCE);
    for (ssize_t at = 0; at < n; at++) {
      if (got[at]->err) fail("consume", rd_kafka_message_errstr(got[at]));
      sum += sum_of(got[at]);
      next[got[at]->partition] = got[at]->offset + 1;
      count++;
      rd_kafka_message_destroy(got[at]);
    }
  }
  rd_kafka_queue_destroy(queue);
  free(next);
  if (catches_up) job->messages = count;
  if (count != job->messages) fail("consume", "more records than were sent");
  return sum;
}

static double cpu(struct rusage *usage) {
  getrusage(RUSAGE_SELF, usage);
  return (double)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) +
         (double)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) / 1e6;
}

static int test(void) {
  uint64_t telemetry_sum = 0, fixed_sum = 0;
  content_t c;
  char value[116];
  for (uint64_t index = 0; index < 1000; index++) {
    telemetry(&c, index);
    telemetry_sum += words(c.key, c.key_len) + 3 * words(c.value, c.value_len);
    telemetry_sum += 5 * (words(NAMES[0], 13) + words(NAMES[1], 9) + words(NAMES[2], 11));
    telemetry_sum += 7 * (words(c.correlation, 36) + words(CLIENT_ID, 21) + words(APP_VERSION, 5));
    fixed(value, 100, index);
    fixed_sum += 3 * words(value, 100);
  }
  /* The same figures stand in the tests of bench-harness/src/sums.rs and src/cli/commands/bench/sum.rs. */
  int known = telemetry_sum == UINT64_C(0xdcc558c833cb7022) && fixed_sum == UINT64_C(0xc8e77a511267e02f);
  printf("%s\n", known ? "the workloads have their known sums" : "WRONG sums");
  for (uint64_t us = 1; us <= 100000; us++) add(us);
  /* As HdrHistogram has them for the same values. */
  int same = at_quantile(0.5) == 50015 && at_quantile(0.99) == 99007 && at_quantile(0.999) == 99903 && at_quantile(1) == 100031;
  printf("%s\n", same ? "the histogram has HdrHistogram's quantiles" : "WRONG quantiles");
  return !known || !same;
}

int main(int argc, char **argv) {
  job_t job = {.topic = "ottla-bench", .phase = "produce", .workload = "telemetry", .compression = "lz4", .linger = "100", .mode = "full", .batch_size = "1000000",
               .messages = 1000000, .partitions = 1};
  for (int at = 1; at + 1 < argc; at += 2) {
    const char *name = argv[at], *value = argv[at + 1];
    if (!strcmp(name, "-b")) job.bootstrap = value;
    else if (!strcmp(name, "-t")) job.topic = value;
    else if (!strcmp(name, "-n")) job.messages = strtoull(value, NULL, 10);
    else if (!strcmp(name, "-partitions")) job.partitions = atoi(value);
    else if (!strcmp(name, "-phase")) job.phase = value;
    else if (!strcmp(name, "-workload")) job.workload = value;
    else if (!strcmp(name, "-compression")) job.compression = value;
    else if (!strcmp(name, "-linger")) job.linger = value;
    else if (!strcmp(name, "-mode")) job.mode = value;
    else if (!strcmp(name, "-batch-size")) job.batch_size = value;
    else if (!strcmp(name, "-in-flight")) job.in_flight = value;
    else if (!strcmp(name, "-test")) return test();
    else fail("unknown option", name);
  }
  if (!job.bootstrap) fail("-b", "missing");
  int produces = !strcmp(job.phase, "produce");
  if (produces) make_pool(&job);
  int every = strcmp(job.mode, "full");
  if (every && strcmp(job.mode, "waited") && strncmp(job.mode, "paced:", 6) && (produces || strcmp(job.mode, "catch-up"))) fail("this peer has no mode", job.mode);
  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  set(conf, "bootstrap.servers", job.bootstrap);
  if (produces) {
    set(conf, "linger.ms", job.linger);
    set(conf, "batch.size", job.batch_size);
    if (job.in_flight) set(conf, "max.in.flight.requests.per.connection", job.in_flight);
    set(conf, "batch.num.messages", "10000");
    set(conf, "compression.type", job.compression);
    set(conf, "enable.idempotence", "true");
    set(conf, "acks", "all");
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
  } else {
    /* Nobody joins this group: partitions are assigned by hand. */
    set(conf, "group.id", "bench");
    set(conf, "enable.auto.commit", "false");
    set(conf, "queued.min.messages", "1000000");
    set(conf, "fetch.queue.backoff.ms", "1");
    set(conf, "check.crcs", "true");
  }
  counted_api = produces ? 0 : 1;
  rd_kafka_conf_interceptor_add_on_new(conf, "bench", on_new, NULL);
  size_t shown, shown_topic = 0;
  const char **dump = rd_kafka_conf_dump(conf, &shown), **dump_topic = NULL;
  rd_kafka_topic_conf_t *of_topics = rd_kafka_conf_get_default_topic_conf(conf);
  if (of_topics) dump_topic = rd_kafka_topic_conf_dump(of_topics, &shown_topic);
  struct rusage usage;
  double cpu_started = cpu(&usage);
  uint64_t started = now_us(), sum = 0;
  char why[256];
  rd_kafka_t *rk = rd_kafka_new(produces ? RD_KAFKA_PRODUCER : RD_KAFKA_CONSUMER, conf, why, sizeof why);
  if (!rk) fail("rd_kafka_new", why);
  if (produces) {
    rd_kafka_topic_t *topic = rd_kafka_topic_new(rk, job.topic, NULL);
    produce(&job, rk, topic);
    rd_kafka_topic_destroy(topic);
  } else {
    sum = consume(&job, rk);
  }
  double seconds = (double)(now_us() - started) / 1e6, cpu_all = cpu(&usage);
  unsigned long wire = produces ? sent_bytes : received_bytes;
  printf("{\"settings\":{\"peer\":\"librdkafka\",\"version\":\"%s\",\"workload\":\"%s\",\"mode\":\"%s\"", rd_kafka_version_str(),
         job.workload, job.mode);
  printf(",\"%s\":%s", produces ? "ack_sample" : "assignment", produces ? every ? "1" : "64" : "\"manual\"");
  /* Of a name that both have, a topic's inherits, and the last one counts. */
  print_settings(dump_topic, shown_topic);
  print_settings(dump, shown);
  printf("},\"phases\":[{\"phase\":\"%s\"", job.phase);
  printf(",\"messages\":%" PRIu64 ",\"seconds\":%f,\"messages_per_s\":%f", job.messages, seconds, (double)job.messages / seconds);
  printf(",\"cpu_us_per_message\":%f,\"process_cpu_seconds\":%f", (cpu_all - cpu_started) * 1e6 / (double)job.messages, cpu_all);
  printf(",\"context_switches\":%ld,\"max_rss_bytes\":%ld", usage.ru_nvcsw + usage.ru_nivcsw, usage.ru_maxrss * 1024);
  /* A Produce request of librdkafka holds one batch. */
  printf(",\"requests\":%lu,\"batches\":%lu,\"wire_bytes\":%lu", requests, produces ? requests : 0, wire);
  if (produces) {
    printf(",\"ack_us\":{\"p50\":%" PRIu64 ",\"p99\":%" PRIu64 ",\"p999\":%" PRIu64 "}", at_quantile(0.5), at_quantile(0.99),
           at_quantile(0.999));
  } else {
    printf(",\"checksum\":\"%016" PRIx64 "\"", sum);
  }
  printf("}]}\n");
  fflush(stdout);
  /* Everything is acknowledged or read; tearing down takes seconds that are nobody's. */
  _exit(0);
}
