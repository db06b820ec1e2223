/* The compiled half of the WAL scan: hops over the records of one segment and sums them up.
 *
 * It is an accelerator, never a judge. It goes forward while every page header, length, back link
 * and checksum is what walreader.py would accept, and stops *before* the first thing that is not
 * plain: damage, a torn or overwritten record, the unwritten tail, a record that leaves the
 * segment, a body it does not expect. walreader.py goes on from there and says what it is.
 *
 * Source of the layouts: PostgreSQL src/include/access/xlog_internal.h, xlogrecord.h, xact.h.
 */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "WAL is read in the byte order of the machine, which must be little-endian"
#endif

enum {
    PAGE = 8192,
    SHORT_HEADER = 24,
    LONG_HEADER = 40,
    RECORD_HEADER = 24,
    RECORD_MAX = 1020 << 20,
    FIRST_IS_CONTRECORD = 1,
    LONG_HEADER_FLAG = 2,
    OVERWRITE = 8,
    KNOWN_FLAGS = 15,
    RM_XLOG = 0,
    RM_TRANSACTION = 1,
    BUILT_IN_RMGRS = 22,
    CUSTOM_RMGR_MIN = 128,
    HEAD = 64 /* bytes of a body that the events' times lie in, and more */
};

enum { CRC_NONE, CRC_WANTED, CRC_ALL };

/* Times beyond it are left to Python: the difference of two within it fits into 64 bits. */
#define TIME_BOUND ((int64_t)1 << 62)

static uint16_t u16(const uint8_t *at) { uint16_t v; memcpy(&v, at, 2); return v; }
static uint32_t u32(const uint8_t *at) { uint32_t v; memcpy(&v, at, 4); return v; }
static uint64_t u64(const uint8_t *at) { uint64_t v; memcpy(&v, at, 8); return v; }

/* --- CRC-32C ------------------------------------------------------------------------------- */

static uint32_t crc_table[8][256];

static void make_crc_tables(void)
{
    for (uint32_t value = 0; value < 256; value++) {
        uint32_t crc = value;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
        crc_table[0][value] = crc;
    }
    for (int table = 1; table < 8; table++)
        for (int value = 0; value < 256; value++) {
            uint32_t crc = crc_table[table - 1][value];
            crc_table[table][value] = crc_table[0][crc & 255] ^ crc >> 8;
        }
}

static uint32_t crc_by_table(const uint8_t *data, size_t length, uint32_t crc)
{
    for (; length >= 8; data += 8, length -= 8) {
        uint64_t word = u64(data) ^ crc;
        crc = crc_table[7][word & 255] ^ crc_table[6][word >> 8 & 255] ^
              crc_table[5][word >> 16 & 255] ^ crc_table[4][word >> 24 & 255] ^
              crc_table[3][word >> 32 & 255] ^ crc_table[2][word >> 40 & 255] ^
              crc_table[1][word >> 48 & 255] ^ crc_table[0][word >> 56];
    }
    while (length--)
        crc = crc_table[0][(crc ^ *data++) & 255] ^ crc >> 8;
    return crc;
}

static uint32_t (*crc_update)(const uint8_t *, size_t, uint32_t) = crc_by_table;

#if defined(__x86_64__) && defined(__GNUC__)
#include <nmmintrin.h>
__attribute__((target("sse4.2"))) static uint32_t
crc_by_instruction(const uint8_t *data, size_t length, uint32_t crc)
{
    uint64_t wide = crc;
    for (; length >= 8; data += 8, length -= 8)
        wide = _mm_crc32_u64(wide, u64(data));
    crc = (uint32_t)wide;
    while (length--)
        crc = _mm_crc32_u8(crc, *data++);
    return crc;
}
#endif

/* --- one segment --------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *data;
    size_t size; /* whole pages only */
    uint64_t base;
    uint64_t stop; /* records from here on are not read; an offset */
    uint16_t magic;
    int crc;
    int collect;
    /* where the walk is */
    size_t at; /* offset at which the next record starts, may be a page's start; 0: not known yet */
    uint32_t timeline;
    /* what it has seen; positions are offsets */
    uint64_t records, first, first_prev, last;
    int any; /* whether `last` is known */
    uint64_t commits, aborts, prepares, events, first_event, last_event, last_commit;
    int64_t min_time, max_time, last_time, backward;
    uint32_t min_xid, max_xid; /* of plain commits and aborts; min_xid > max_xid: none */
    uint32_t *kept; /* offsets of records for Python to decode */
    size_t kept_count, kept_room;
    int no_memory;
} Skim;

/* Whether the page at `at` may be read; `missing` is what a record begun earlier still lacks, 0 for none. */
static int page_fits(Skim *s, size_t at, uint32_t missing, uint32_t *timeline)
{
    if (at + PAGE > s->size)
        return 0;
    const uint8_t *page = s->data + at;
    uint16_t flags = u16(page + 2);
    uint32_t page_timeline = u32(page + 4);
    if (u16(page) != s->magic || u64(page + 8) != s->base + at || (flags & ~KNOWN_FLAGS) ||
        ((flags & LONG_HEADER_FLAG) != 0) != (at == 0) || (flags & OVERWRITE) ||
        page_timeline < *timeline)
        return 0;
    if (missing ? !(flags & FIRST_IS_CONTRECORD) || u32(page + 16) != missing
                : (flags & FIRST_IS_CONTRECORD) != 0)
        return 0;
    *timeline = page_timeline;
    return 1;
}

static size_t header_of(size_t page) { return page ? SHORT_HEADER : LONG_HEADER; }

/* Step over the rest of a record that began in an earlier segment, to the first record's start. */
static int skip_carried(Skim *s)
{
    if (s->size < PAGE)
        return 0;
    int carried = u16(s->data + 2) & FIRST_IS_CONTRECORD;
    uint32_t missing = carried ? u32(s->data + 16) : 0;
    size_t page = 0;
    if (carried && missing == 0)
        return 0;
    for (;;) {
        if (!page_fits(s, page, missing, &s->timeline))
            return 0;
        size_t body = page + header_of(page);
        size_t room = page + PAGE - body;
        if (missing <= room) {
            s->at = (body + missing + 7) & ~(size_t)7;
            return 1;
        }
        missing -= (uint32_t)room;
        page += PAGE;
    }
}

static int is_event(uint16_t kind)
{
    return kind >> 8 == RM_TRANSACTION && (kind & 0x70) <= 0x40;
}

/* COMMIT and ABORT: what count_event() sums up is all that a scan wants of them. */
static int is_plain_event(uint16_t kind)
{
    return is_event(kind) && ((kind & 0x70) == 0x00 || (kind & 0x70) == 0x20);
}

static int is_wanted(uint16_t kind)
{
    if (is_event(kind))
        return 1;
    if (kind >> 8 != RM_XLOG)
        return 0;
    int operation = kind & 0xF0;
    return operation == 0x00 || operation == 0x10 || operation == 0x60 || operation == 0x70;
}

static void keep(Skim *s, uint64_t offset)
{
    if (s->kept_count == s->kept_room) {
        size_t room = s->kept_room ? s->kept_room * 2 : 256;
        uint32_t *more = realloc(s->kept, room * sizeof *more);
        if (more == NULL) {
            s->no_memory = 1;
            return;
        }
        s->kept = more;
        s->kept_room = room;
    }
    s->kept[s->kept_count++] = (uint32_t)offset;
}

/* The time of an event from the first bytes of its body; 0 where these are not as expected. */
static int event_time(const uint8_t *body, size_t have, size_t total, int operation, int64_t *time)
{
    size_t at = 0, length;
    for (;;) {
        if (at + 5 > have)
            return 0;
        if (body[at] == 253)
            at += 3;
        else if (body[at] == 252)
            at += 5;
        else
            break;
    }
    if (body[at] == 255) {
        length = body[at + 1];
        at += 2;
    } else if (body[at] == 254) {
        length = u32(body + at + 1);
        at += 5;
    } else
        return 0;
    size_t in = operation == 0x10 ? 16 : 0;
    if (length != total - at || at + in + 8 > have)
        return 0;
    *time = (int64_t)u64(body + at + in);
    return *time > -TIME_BOUND && *time < TIME_BOUND;
}

static void count_event(Skim *s, int operation, uint64_t offset, int64_t time)
{
    if (s->events == 0) {
        s->first_event = offset;
        s->min_time = s->max_time = time;
    } else {
        if (time < s->min_time)
            s->min_time = time;
        if (time > s->max_time)
            s->max_time = time;
        if (s->last_time > time && s->last_time - time > s->backward)
            s->backward = s->last_time - time;
    }
    s->events++;
    s->last_event = offset;
    s->last_time = time;
    if (operation == 0x10)
        s->prepares++;
    else if (operation == 0x20 || operation == 0x40)
        s->aborts++;
    else {
        s->commits++;
        s->last_commit = offset;
    }
}

/* Read the record at s->at, and go behind it. 0: stop before it. */
static int one_record(Skim *s)
{
    size_t page = s->at & ~(size_t)(PAGE - 1);
    uint32_t timeline = s->timeline;
    size_t start = s->at;
    if (start == page) {
        if (!page_fits(s, page, 0, &timeline))
            return 0;
        start += header_of(page);
    }
    if (start >= s->stop || start + 8 > s->size)
        return 0;
    uint32_t total = u32(s->data + start);
    if (total < RECORD_HEADER || total > (uint32_t)RECORD_MAX)
        return 0;

    /* Gather the header and the first bytes of the body; sum up the rest while going over the pages. */
    uint8_t gathered[RECORD_HEADER + HEAD];
    const uint8_t *head = s->data + start; /* header and the beginning of the body, contiguous */
    size_t room = page + PAGE - start;
    size_t after = start + total;
    uint16_t kind;
    uint32_t state = ~0u; /* of the CRC over the body */
    int check = s->crc == CRC_ALL;
    if (total <= room) {
        kind = u16(head + 16);
        check |= s->crc == CRC_WANTED && is_wanted(kind);
        if (check)
            state = crc_update(head + RECORD_HEADER, total - RECORD_HEADER, state);
    } else {
        size_t have = 0, done = 0, piece = room;
        const uint8_t *from = head;
        for (;;) {
            if (have < sizeof gathered) {
                size_t part = sizeof gathered - have < piece ? sizeof gathered - have : piece;
                memcpy(gathered + have, from, part);
                have += part;
            }
            if (s->crc != CRC_NONE && done + piece > RECORD_HEADER) {
                size_t skip = done < RECORD_HEADER ? RECORD_HEADER - done : 0;
                state = crc_update(from + skip, piece - skip, state);
            }
            done += piece;
            if (done == total)
                break;
            page += PAGE;
            if (!page_fits(s, page, (uint32_t)(total - done), &timeline))
                return 0;
            from = s->data + page + header_of(page);
            room = PAGE - header_of(page);
            piece = total - done < room ? total - done : room;
            after = page + header_of(page) + piece;
        }
        head = gathered;
        kind = u16(head + 16);
        check |= s->crc == CRC_WANTED && is_wanted(kind);
    }

    uint64_t prev = u64(head + 8);
    int rmid = kind >> 8;
    if ((rmid >= BUILT_IN_RMGRS && rmid < CUSTOM_RMGR_MIN) ||
        (s->any ? prev != s->base + s->last : prev >= s->base + start))
        return 0;
    if (check && ~crc_update(head, 20, state) != u32(head + 20))
        return 0;
    if (is_event(kind)) {
        int operation = kind & 0x70;
        size_t body = total - RECORD_HEADER;
        int64_t time;
        if (!event_time(head + RECORD_HEADER, body < HEAD ? body : HEAD, body, operation, &time))
            return 0;
        count_event(s, operation, start, time);
        if (is_plain_event(kind)) {
            uint32_t xid = u32(head + 4);
            if (xid < s->min_xid)
                s->min_xid = xid;
            if (xid > s->max_xid)
                s->max_xid = xid;
        }
    }
    if (is_wanted(kind) && (s->collect || !is_plain_event(kind)))
        keep(s, start);
    if (s->records == 0) {
        s->any = 1;
        s->first = start;
        s->first_prev = prev;
    }
    s->records++;
    s->last = start;
    s->timeline = timeline;
    s->at = (after + 7) & ~(size_t)7;
    return (kind & 0xFFF0) != 0x0040; /* nothing follows a SWITCH */
}

static void skim(Skim *s)
{
    if (s->at == 0 && !skip_carried(s))
        return;
    while (!s->no_memory && one_record(s))
        ;
}

static PyObject *answer(const Skim *s)
{
    if (s->no_memory)
        return PyErr_NoMemory();
    if (s->records == 0)
        Py_RETURN_NONE;
    PyObject *kept = PyList_New((Py_ssize_t)s->kept_count);
    if (kept == NULL)
        return NULL;
    for (size_t i = 0; i < s->kept_count; i++) {
        PyObject *offset = PyLong_FromUnsignedLong(s->kept[i]);
        if (offset == NULL || PyList_SetItem(kept, (Py_ssize_t)i, offset) < 0) {
            Py_DECREF(kept);
            return NULL;
        }
    }
    return Py_BuildValue("(KIKKKKKKKLLLLKKKKNII)", (unsigned long long)s->at,
                         (unsigned int)s->timeline, (unsigned long long)s->records,
                         (unsigned long long)s->first, (unsigned long long)s->first_prev,
                         (unsigned long long)s->last, (unsigned long long)s->commits,
                         (unsigned long long)s->aborts, (unsigned long long)s->prepares,
                         (long long)s->min_time, (long long)s->max_time, (long long)s->last_time,
                         (long long)s->backward, (unsigned long long)s->events,
                         (unsigned long long)s->first_event, (unsigned long long)s->last_event,
                         (unsigned long long)s->last_commit, kept, (unsigned int)s->min_xid,
                         (unsigned int)s->max_xid);
}

static PyObject *py_skim(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer buffer;
    unsigned long long base, stop, at, last;
    unsigned int magic, timeline;
    int crc, collect;
    if (!PyArg_ParseTuple(args, "y*KKIipKKI", &buffer, &base, &stop, &magic, &crc, &collect, &at, &last,
                          &timeline))
        return NULL;
    Skim s;
    memset(&s, 0, sizeof s);
    s.data = buffer.buf;
    s.size = (size_t)buffer.len & ~(size_t)(PAGE - 1);
    s.base = base;
    s.stop = stop > base ? stop - base : 0;
    s.magic = (uint16_t)magic;
    s.crc = crc;
    s.collect = collect;
    s.at = (size_t)at;
    s.last = last;
    s.timeline = timeline;
    s.any = at != 0;
    s.min_xid = UINT32_MAX;
    Py_BEGIN_ALLOW_THREADS
    skim(&s);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&buffer);
    PyObject *result = answer(&s);
    free(s.kept);
    return result;
}

static PyMethodDef methods[] = {
    {"skim", py_skim, METH_VARARGS, "See _walskim.pyi."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_walskim", "The compiled half of the WAL scan.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__walskim(void)
{
    make_crc_tables();
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("sse4.2"))
        crc_update = crc_by_instruction;
#endif
    return PyModule_Create(&definition);
}
