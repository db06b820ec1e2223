/* archive_command and restore_command: what hook.py does, compiled. Installed as walarchiver-hook where it can be built.
 *
 * - hook.py says why each thing is as it is. Command line, statuses and messages are the same to the letter; the
 *   tests run over both and compare them.
 * - push: 0 when the server said so, else 1. fetch: 0 when the server said so and the file is there, 1 only when
 *   it proved the end of the archive, else 200. There is no launcher to translate, so `leave` alone ends the process,
 *   and 1 from fetch is said in one place only. Whatever ends it by force is a signal, which PostgreSQL takes for a doubt.
 * - No wait is unbounded: sockets do not block, every poll lasts a second at most, and before each the deadline and
 *   PostgreSQL's life are checked.
 * - Plain POSIX and nothing else; memory is asked for at the start only, in proportion to the command line.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    DONE = 0,
    FAILED = 1,        /* of push */
    PROVEN_ABSENT = 1, /* of fetch */
    DOUBT = 200,
    ABSENT_SERVER_MS = 10000,
    SLICE_MS = 1000,
    PAUSE_MS = 100,
    PIPE_ROOM = 4096,
    PIECE = 16384,
    ANSWER_MAX = 65536,
    TEXT_MAX = 2000,
    SHOWN_MAX = 1024
};

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

#define DEFAULT_SOCKET "/run/walarchiver/walarchiver.sock"
#define USAGE \
    "usage: walarchiver-hook [--socket PATH] [--cluster NAME] push %p\n" \
    "       walarchiver-hook [--socket PATH] [--cluster NAME] fetch [--plan ID] %f %p"

typedef enum { NO_VERB, PUSH, FETCH } Verb;

static const char *const verb_names[] = {"", "push", "fetch"};
static Verb verb;

static const char *socket_path, *cluster, *plan, *name, *path;
static long asker;      /* the process named by --parent, or -1 */
static pid_t parent;    /* ours when we began */
static long long ends;  /* of the deadline, on `now_ms` */

static char message[16384];
static size_t message_length;

/* --- leaving --------------------------------------------------------------------------------- */

static _Noreturn void leave(int status)
{
    _exit(status);
}

/* A pipe that has room takes so much without blocking; where nobody reads it, the status still stands. */
static void say(const char *line, size_t length)
{
    struct pollfd log = {.fd = STDERR_FILENO, .events = POLLOUT};
    while (length > 0 && poll(&log, 1, SLICE_MS) != 0) {
        ssize_t wrote = write(STDERR_FILENO, line, length < PIPE_ROOM ? length : PIPE_ROOM);
        if (wrote < 0 && errno != EINTR)
            return;
        if (wrote > 0) {
            line += wrote;
            length -= (size_t)wrote;
        }
    }
}

static void add(const char *bytes, size_t length)
{
    size_t room = sizeof message - 1 - message_length; /* one for the end of the line */
    if (length > room)
        length = room;
    memcpy(message + message_length, bytes, length);
    message_length += length;
}

static void add_text(const char *text)
{
    add(text, strlen(text));
}

static void begin(const char *text)
{
    message_length = 0;
    add_text("walarchiver-hook ");
    add_text(verb_names[verb]);
    add_text(": ");
    add_text(text);
}

static _Noreturn void give_up(void)
{
    message[message_length++] = '\n';
    say(message, message_length);
    leave(verb == PUSH ? FAILED : DOUBT);
}

static _Noreturn void fail(const char *text)
{
    begin(text);
    give_up();
}

/* Only async-signal-safe calls: another message may be half made. */
static void on_signal(int number)
{
    static const char line[] = "walarchiver-hook push: stopped by a signal\n";
    static const char nameless[] = "walarchiver-hook : stopped by a signal\n";
    (void)number;
    if (verb == PUSH)
        say(line, sizeof line - 1);
    else
        say(nameless, sizeof nameless - 1);
    leave(verb == PUSH ? FAILED : DOUBT);
}

/* --- text ------------------------------------------------------------------------------------ */

/* Bytes of the UTF-8 character here, as strictly as Python takes it; 0 for none. */
static size_t character(const unsigned char *at, size_t left)
{
    size_t length;
    unsigned low = 0x80, high = 0xBF;
    if (at[0] < 0x80)
        return 1;
    if (at[0] >= 0xC2 && at[0] <= 0xDF)
        length = 2;
    else if ((at[0] & 0xF0) == 0xE0)
        length = 3;
    else if (at[0] >= 0xF0 && at[0] <= 0xF4)
        length = 4;
    else
        return 0;
    if (at[0] == 0xE0)
        low = 0xA0;
    else if (at[0] == 0xED)
        high = 0x9F; /* no surrogates */
    else if (at[0] == 0xF0)
        low = 0x90;
    else if (at[0] == 0xF4)
        high = 0x8F;
    if (left < length || at[1] < low || at[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if ((at[i] & 0xC0) != 0x80)
            return 0;
    return length;
}

/* Onto one line: what is no character, or moves a terminal, becomes \xNN. */
static void add_line(const char *bytes, size_t length)
{
    while (length > 0) {
        const unsigned char *at = (const unsigned char *)bytes;
        size_t size = character(at, length);
        if (size == 0 || at[0] < ' ' || at[0] == 0x7F) {
            char escaped[8];
            add(escaped, (size_t)snprintf(escaped, sizeof escaped, "\\x%02x", at[0]));
            size = 1;
        } else {
            add(bytes, size);
        }
        bytes += size;
        length -= size;
    }
}

static void add_shown(const char *text)
{
    size_t length = strlen(text);
    add_line(text, length > SHOWN_MAX ? SHOWN_MAX : length);
    if (length > SHOWN_MAX)
        add_text("...");
}

static int is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* A number in plain digits that is not above `most`, else -1. */
static long number(const char *text, size_t length, long most)
{
    long found = 0;
    if (length == 0)
        return -1;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -1;
        if (found > (most - (text[i] - '0')) / 10)
            return -1;
        found = found * 10 + (text[i] - '0');
    }
    return found;
}

/* --- the command line ------------------------------------------------------------------------ */

static int is_valued(const char *word)
{
    return strcmp(word, "--socket") == 0 || strcmp(word, "--cluster") == 0 || strcmp(word, "--plan") == 0
        || strcmp(word, "--parent") == 0;
}

static Verb verb_of(const char *word)
{
    return strcmp(word, "push") == 0 ? PUSH : strcmp(word, "fetch") == 0 ? FETCH : NO_VERB;
}

static Verb expected_verb(char **words)
{
    Verb later = NO_VERB;
    for (int value = 0; *words != NULL; words++) {
        Verb found = verb_of(*words);
        if (found != NO_VERB && !value)
            return found;
        if (later == NO_VERB)
            later = found;
        value = !value && is_valued(*words);
    }
    return later;
}

static _Noreturn void refuse(const char *what, const char *shown, const char *after)
{
    begin("WA-USAGE: ");
    add_text(what);
    add_shown(shown);
    add_text(after);
    add_text(USAGE);
    give_up();
}

/* Takes one option; the last word of it. */
static char **take_option(char **word)
{
    char option[16] = "";
    const char *value = strchr(*word, '=');
    size_t length = value == NULL ? strlen(*word) : (size_t)(value - *word);
    if (length < sizeof option)
        memcpy(option, *word, length);
    if (!is_valued(option))
        refuse("unknown option ", *word, "\n");
    if (value != NULL)
        value++;
    else if ((value = *++word) == NULL)
        refuse("", option, " needs a value\n");
    if (strcmp(option, "--parent") == 0)
        asker = number(value, strlen(value), INT_MAX);
    else if (*value == '\0')
        refuse("", option, " needs a value\n");
    else if (strcmp(option, "--socket") == 0)
        socket_path = value;
    else if (strcmp(option, "--cluster") == 0)
        cluster = value;
    else
        plan = value;
    return word;
}

static const char *absolute(const char *given)
{
    if (*given == '\0')
        refuse("the path is empty\n", "", "");
    if (*given == '/')
        return given;
    char *folder = getcwd(NULL, 0);
    if (folder == NULL) {
        begin("WA-USAGE: the working directory is not known: ");
        add_text(strerror(errno));
        give_up();
    }
    size_t length = strlen(folder) + strlen(given) + 2;
    char *joined = malloc(length);
    if (joined == NULL)
        fail("out of memory");
    snprintf(joined, length, "%s/%s", folder, given);
    free(folder);
    return joined;
}

static const char *environment(const char *key)
{
    const char *value = getenv(key);
    return value == NULL || *value == '\0' ? NULL : value;
}

static void parse(char **words)
{
    const char *rest[4] = {NULL, NULL, NULL, NULL};
    size_t count = 0;
    socket_path = environment("WALARCHIVER_SOCKET");
    if (socket_path == NULL)
        socket_path = DEFAULT_SOCKET;
    cluster = environment("WALARCHIVER_CLUSTER");
    asker = -1;
    for (; *words != NULL; words++) {
        if (**words == '-')
            words = take_option(words);
        else if (count < 4)
            rest[count++] = *words;
    }
    Verb asked = count == 0 ? NO_VERB : verb_of(rest[0]);
    if (asked == PUSH && count == 2 && plan == NULL) {
        path = absolute(rest[1]);
    } else if (asked == FETCH && count == 3 && *rest[1] != '\0') {
        name = rest[1];
        path = absolute(rest[2]);
    } else {
        refuse("", "", "");
    }
    verb = asked;
}

static long timeout_s(void)
{
    const char *text = environment("WALARCHIVER_TIMEOUT");
    if (text == NULL)
        return verb == PUSH ? 120 : 600;
    long seconds = number(text, strlen(text), 86400);
    if (seconds >= 1)
        return seconds;
    begin("WA-USAGE: WALARCHIVER_TIMEOUT is ");
    add_shown(text);
    add_text(", not a number of seconds from 1 to 86400");
    give_up();
}

/* --- time ------------------------------------------------------------------------------------ */

static long long now_ms(void)
{
    struct timespec now;
    if (clock_gettime(CLOCK_MONOTONIC, &now) != 0)
        fail("the clock cannot be read");
    return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* How long the next wait may be. */
static int next_wait_ms(void)
{
    long long left = ends - now_ms();
    if (left <= 0)
        fail("WA-DEADLINE: no answer from the server inside the deadline; is the storage slow?");
    if (getppid() != parent || (asker >= 0 && kill((pid_t)asker, 0) != 0 && errno == ESRCH))
        fail("WA-CALLER-GONE: the PostgreSQL process that asked is gone");
    return left < SLICE_MS ? (int)left : SLICE_MS;
}

/* Waits until the socket may be ready. */
static void wait_for(int connection, short events)
{
    struct pollfd one = {.fd = connection, .events = events};
    if (poll(&one, 1, next_wait_ms()) < 0 && errno != EINTR && errno != EAGAIN)
        fail("the socket cannot be waited for");
}

/* --- the exchange ---------------------------------------------------------------------------- */

static size_t put_text(char *into, const char *text)
{
    size_t length = strlen(text);
    memcpy(into, text, length);
    return length;
}

/* A JSON member; the room was counted by `request`. */
static size_t put_member(char *into, const char *key, const char *whole)
{
    const char *value = whole;
    char *at = into;
    *at++ = '"';
    at += put_text(at, key);
    at += put_text(at, "\":");
    if (value == NULL)
        return (size_t)(at - into) + put_text(at, "null");
    *at++ = '"';
    for (size_t left = strlen(value), size; left > 0; value += size, left -= size) {
        size = character((const unsigned char *)value, left);
        if (size == 0) {
            begin("WA-NAME: ");
            add_shown(whole);
            add_text(" is not UTF-8; PostgreSQL names no such file");
            give_up();
        }
        if (*value == '"' || *value == '\\' || (unsigned char)*value < ' ') {
            at += sprintf(at, "\\u%04x", (unsigned char)*value);
        } else {
            memcpy(at, value, size);
            at += size;
        }
    }
    *at++ = '"';
    return (size_t)(at - into);
}

/* The whole HTTP request (docs/api.md). */
static char *request(size_t *length)
{
    const char *members[][2] = {{"cluster", cluster}, {"path", path}, {"plan", plan}, {"name", name}};
    size_t count = verb == FETCH ? 4 : 2, room = 1024, body = 0;
    for (size_t i = 0; i < count; i++)
        room += members[i][1] == NULL ? 0 : 6 * strlen(members[i][1]); /* \u00XX is the longest form */
    char *made = malloc(room), *json = malloc(room);
    if (made == NULL || json == NULL)
        fail("out of memory");
    for (size_t i = 0; i < count; i++) {
        json[body++] = i == 0 ? '{' : ',';
        body += put_member(json + body, members[i][0], members[i][1]);
    }
    json[body++] = '}';
    int head = snprintf(made, 512,
        "POST /v1/%s HTTP/1.1\r\nHost: walarchiver\r\nContent-Type: application/json\r\n"
        "Content-Length: %zu\r\nConnection: close\r\n\r\n",
        verb_names[verb], body);
    memcpy(made + head, json, body);
    free(json);
    *length = (size_t)head + body;
    return made;
}

/* Why nobody can be asked on the socket, and what to do about it. `error` is 0 for a path that is too long. */
static _Noreturn void no_server(int error)
{
    struct stat found;
    int is_other = stat(socket_path, &found) == 0 && !S_ISSOCK(found.st_mode);
    int is_wrong = error != ENOENT && error != ENOTDIR && error != ECONNREFUSED && error != ECONNRESET
        && error != ECONNABORTED && error != EPIPE && error != ESHUTDOWN;
    char user[64];
    snprintf(user, sizeof user, "; let user %ld reach it", (long)geteuid());
    begin(is_other || is_wrong ? "WA-SOCKET" : "WA-SERVER");
    add_text(": no server on ");
    add_shown(socket_path);
    add_text(": ");
    if (is_other)
        add_text("it is not a socket; correct the path");
    else {
        add_text(error == 0 ? "AF_UNIX path too long" : strerror(error));
        if (error == EACCES || error == EPERM)
            add_text(user);
        else
            add_text(is_wrong ? "; correct the path" : "; is `walarchiver serve` running, with this path?");
    }
    give_up();
}

/* 0, or what went wrong. */
static int try_connect(int connection)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, socket_path, strlen(socket_path) + 1);
    return connect(connection, (struct sockaddr *)&address, sizeof address) == 0 ? 0 : errno;
}

static int open_socket(void)
{
    int made = socket(AF_UNIX, SOCK_STREAM, 0);
    if (made < 0 || fcntl(made, F_SETFD, FD_CLOEXEC) != 0 || fcntl(made, F_SETFL, O_NONBLOCK) != 0) {
        begin("WA-SERVER: no socket can be made: ");
        add_text(strerror(errno));
        give_up();
    }
    return made;
}

/* Fetch waits for a server that is just being restarted. */
static int connected(void)
{
    long long retry_ends = now_ms() + (verb == FETCH ? ABSENT_SERVER_MS : 0);
    int fits = strlen(socket_path) < sizeof ((struct sockaddr_un *)0)->sun_path;
    for (;;) {
        int wait_ms = next_wait_ms(), connection = open_socket();
        int error = fits ? try_connect(connection) : 0;
        if (fits && error == 0)
            return connection;
        close(connection);
        int is_full = fits && (error == EAGAIN || error == EINPROGRESS || error == ETIMEDOUT || error == EINTR);
        if (!is_full && now_ms() >= retry_ends)
            no_server(error);
        poll(NULL, 0, wait_ms < PAUSE_MS ? wait_ms : PAUSE_MS);
    }
}

static _Noreturn void broken(void)
{
    begin("WA-SERVER: the connection to the server broke: ");
    add_text(strerror(errno));
    add_text("; see its log");
    give_up();
}

static void send_all(int connection, const char *bytes, size_t length)
{
    while (length > 0) {
        next_wait_ms();
        ssize_t sent = send(connection, bytes, length, MSG_NOSIGNAL);
        if (sent >= 0) {
            bytes += sent;
            length -= (size_t)sent;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            wait_for(connection, POLLOUT);
        } else if (errno == EPIPE || errno == ECONNRESET) {
            return; /* turned away before we were heard; the reason may be waiting */
        } else if (errno != EINTR) {
            broken();
        }
    }
}

/* --- the answer ------------------------------------------------------------------------------ */

typedef struct {
    const char *at;
    size_t length;
} Text;

static char answer[ANSWER_MAX + PIECE];

static int equals(Text text, const char *other)
{
    return text.length == strlen(other) && memcmp(text.at, other, text.length) == 0;
}

static int is_named(Text line, const char *key)
{
    const char *colon = memchr(line.at, ':', line.length);
    size_t length = colon == NULL ? line.length : (size_t)(colon - line.at);
    if (length != strlen(key))
        return 0;
    for (size_t i = 0; i < length; i++)
        if ((line.at[i] >= 'A' && line.at[i] <= 'Z' ? line.at[i] + 32 : line.at[i]) != key[i])
            return 0;
    return 1;
}

/* Cuts the first line off. */
static Text take_line(Text *rest)
{
    const char *end = memmem(rest->at, rest->length, "\r\n", 2);
    Text line = {rest->at, end == NULL ? rest->length : (size_t)(end - rest->at)};
    size_t taken = end == NULL ? line.length : line.length + 2;
    rest->at += taken;
    rest->length -= taken;
    return line;
}

/* The value of a header; nothing when it is missing or there twice. */
static Text header(Text head, const char *key)
{
    Text found = {NULL, 0};
    int count = 0;
    for (take_line(&head); head.length > 0;) {
        Text line = take_line(&head);
        if (!is_named(line, key))
            continue;
        size_t skipped = strlen(key) + 1;
        found = skipped > line.length ? (Text){line.at, 0} : (Text){line.at + skipped, line.length - skipped};
        count++;
    }
    if (count != 1)
        return (Text){NULL, 0};
    for (; found.length > 0 && is_space(found.at[0]); found.at++)
        found.length--;
    while (found.length > 0 && is_space(found.at[found.length - 1]))
        found.length--;
    return found;
}

/* Whether all that the answer announces is there. */
static int split(size_t length, Text *head, Text *body)
{
    const char *blank = memmem(answer, length, "\r\n\r\n", 4);
    *head = (Text){answer, blank == NULL ? length : (size_t)(blank - answer)};
    *body = (Text){blank == NULL ? answer : blank + 4, blank == NULL ? 0 : length - head->length - 4};
    if (blank == NULL)
        return 0;
    Text announced = header(*head, "content-length");
    long bytes = announced.length < 10 ? number(announced.at, announced.length, LONG_MAX) : -1;
    return bytes >= 0 && body->length >= (size_t)bytes;
}

static size_t receive(int connection)
{
    size_t length = 0;
    Text head, body;
    while (!split(length, &head, &body)) {
        next_wait_ms();
        ssize_t more = recv(connection, answer + length, PIECE, 0);
        if (more == 0)
            break;
        if (more > 0)
            length += (size_t)more;
        else if (errno == EAGAIN || errno == EWOULDBLOCK)
            wait_for(connection, POLLIN);
        else if (errno != EINTR)
            broken();
        if (length > ANSWER_MAX)
            fail("WA-SERVER: the server's answer is too long");
    }
    return length;
}

/* The HTTP status of a whole answer. */
static int status_of(Text head)
{
    Text line = take_line(&head);
    if (line.length < 12 || (memcmp(line.at, "HTTP/1.1 ", 9) != 0 && memcmp(line.at, "HTTP/1.0 ", 9) != 0)
        || (line.length > 12 && line.at[12] != ' '))
        return -1;
    return (int)number(line.at + 9, 3, 999);
}

/* The server's words as one line for PostgreSQL's log. */
static void add_body(Text body)
{
    static char line[TEXT_MAX];
    size_t length = 0;
    int gap = 0;
    for (size_t i = 0; i < body.length && length < TEXT_MAX; i++) {
        if (is_space(body.at[i])) {
            gap = length > 0;
            continue;
        }
        if (gap)
            line[length++] = ' ';
        gap = 0;
        if (length < TEXT_MAX)
            line[length++] = body.at[i];
    }
    add_line(line, length);
}

/* What the server's answer means to PostgreSQL. Every way on that is not one of the two is a doubt or a failure. */
static _Noreturn void judge(size_t length)
{
    Text head, body;
    struct stat target;
    if (length == 0)
        fail("WA-SERVER: the server closed the connection without an answer; see its log");
    if (!split(length, &head, &body))
        fail("WA-SERVER: the server's answer broke off; see its log");
    int status = status_of(head);
    if (status < 0)
        fail("WA-SERVER: what answers on the socket is not the walarchiver server; correct the path");
    Text said = header(head, "walarchiver-exit");
    if (status == 200 && equals(said, "0")) {
        if (verb == PUSH || (lstat(path, &target) == 0 && S_ISREG(target.st_mode)))
            leave(DONE);
        begin("WA-DOUBT: the server said done, but there is no file ");
        add_shown(path);
        add_text("; is this its host?");
        give_up();
    }
    if (verb == FETCH && status == 404 && equals(said, "1"))
        leave(PROVEN_ABSENT);
    char number_text[16];
    snprintf(number_text, sizeof number_text, "%d: ", status);
    begin("server answered ");
    add_text(number_text);
    add_body(body);
    give_up();
}

/* --- the process ----------------------------------------------------------------------------- */

/* A socket on the number of standard error would be sent our complaints. */
static void keep_standard_files_open(void)
{
    for (int file = 0; file <= 2; file++)
        if (fcntl(file, F_GETFD) < 0 && errno == EBADF && open("/dev/null", O_RDWR) != file)
            return;
}

/* To die by a signal would restart the archiver; for fetch PostgreSQL wants to see the signal. */
static void set_signals(void)
{
    const int numbers[] = {SIGTERM, SIGHUP, SIGQUIT, SIGINT};
    struct sigaction action, before;
    memset(&action, 0, sizeof action);
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);
    sigaction(SIGXFSZ, &action, NULL);
    action.sa_handler = on_signal;
    for (size_t i = 0; verb != FETCH && i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i] != SIGINT || sigaction(SIGINT, NULL, &before) != 0 || before.sa_handler != SIG_IGN)
            sigaction(numbers[i], &action, NULL);
}

int main(int argc, char **argv)
{
    parent = getppid();
    char **words = argv + (argc > 0);
    verb = expected_verb(words);
    set_signals();
    keep_standard_files_open();
    parse(words);
    ends = now_ms() + 1000LL * timeout_s();
    size_t length;
    char *asked = request(&length);
    int connection = connected();
    send_all(connection, asked, length);
    free(asked);
    judge(receive(connection));
}
