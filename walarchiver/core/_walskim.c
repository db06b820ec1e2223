/* The compiled half of the WAL scan: hops over the records of one segment and sums them up (skim), or
 * counts rows of watched files and picks the records that matter to them (sift).
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
#include <stddef.h>
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

/* One record that lies whole in the segment, its header and all pages checked. */
typedef struct {
    size_t start, after; /* offsets of its first byte, and behind its last one */
    uint32_t total, timeline;
    uint16_t kind;
    uint64_t prev;
    const uint8_t *head;  /* header and beginning of the body, contiguous */
    size_t body, have;    /* bytes of the body: all, and those at head + RECORD_HEADER */
    uint8_t gathered[RECORD_HEADER + HEAD];
} Record;

/* Look at the record at s->at. 0: it is not plain. */
static int read_record(Skim *s, Record *r)
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
    const uint8_t *head = s->data + start;
    size_t room = page + PAGE - start;
    size_t after = start + total;
    uint16_t kind;
    uint32_t state = ~0u; /* of the CRC over the body */
    int check = s->crc == CRC_ALL;
    r->have = r->body = total - RECORD_HEADER;
    if (total <= room) {
        kind = u16(head + 16);
        check |= s->crc == CRC_WANTED && is_wanted(kind);
        if (check)
            state = crc_update(head + RECORD_HEADER, total - RECORD_HEADER, state);
    } else {
        size_t have = 0, done = 0, piece = room;
        const uint8_t *from = head;
        for (;;) {
            if (have < sizeof r->gathered) {
                size_t part = sizeof r->gathered - have < piece ? sizeof r->gathered - have : piece;
                memcpy(r->gathered + have, from, part);
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
        head = r->gathered;
        r->have = have - RECORD_HEADER;
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
    r->start = start;
    r->after = after;
    r->total = total;
    r->timeline = timeline;
    r->kind = kind;
    r->prev = prev;
    r->head = head;
    return 1;
}

/* Go behind a record. 0: nothing can follow it here. */
static int pass(Skim *s, const Record *r)
{
    if (s->records == 0) {
        s->first = r->start;
        s->first_prev = r->prev;
    }
    s->any = 1;
    s->records++;
    s->last = r->start;
    s->timeline = r->timeline;
    s->at = (r->after + 7) & ~(size_t)7;
    return (r->kind & 0xFFF0) != 0x0040; /* nothing follows a SWITCH */
}

/* Read the record at s->at, sum it up, and go behind it. 0: stop before it. */
static int one_record(Skim *s)
{
    Record r;
    if (!read_record(s, &r))
        return 0;
    if (is_event(r.kind)) {
        int operation = r.kind & 0x70;
        int64_t time;
        if (!event_time(r.head + RECORD_HEADER, r.have < HEAD ? r.have : HEAD, r.body, operation, &time))
            return 0;
        count_event(s, operation, r.start, time);
    }
    if (is_plain_event(r.kind)) {
        uint32_t xid = u32(r.head + 4);
        if (xid < s->min_xid)
            s->min_xid = xid;
        if (xid > s->max_xid)
            s->max_xid = xid;
    }
    if (is_wanted(r.kind) && (s->collect || !is_plain_event(r.kind)))
        keep(s, r.start);
    return pass(s, &r);
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
    if (s.stop > s.size)
        s.stop = s.size;
    s.magic = (uint16_t)magic;
    s.crc = crc;
    s.collect = collect;
    s.at = at < s.size ? (size_t)at : s.size;
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

/* --- sifting: rows of watched files, and the records that Python is to look at --------------- */

/* What is to be done with a kind of record; the table comes from core/sift.py. */
enum { HOP, KEEP, COMMIT, ABORT, INSERT, UPDATE, DELETE, MULTI_INSERT };

enum {
    FILE_BYTES = 12,
    KINDS = 1 << 16,
    SCRATCH_MAX = 1 << 20, /* longer records over several pages are left to Python */
    HAS_INFO = 0x80,
    NOT_BARE = 0x02 | 0x04 | 0x10, /* subtransactions, dropped files, a prepared transaction's id */
    HAS_IMAGE = 0x10,
    SAME_RELATION = 0x80,
    IMAGE_HAS_HOLE = 0x01,
    BLOCK_ID_MAX = 32
};
#define NONE UINT32_MAX

/* Rows of one file that one id changed, without a kept record of that id in between. */
typedef struct {
    uint64_t first, last;
    int64_t inserted, updated, deleted;
    uint32_t xid, file, end; /* end: index of the commit or abort among the bare ones, or NONE */
    uint32_t next;           /* the same id's group before this one, or NONE */
} Group;

typedef struct {
    uint64_t lsn;
    int64_t time;
    uint32_t xid;
    uint8_t committed;
} End;

typedef struct {
    uint32_t xid;
    uint32_t head; /* its newest open group, or NONE */
    int used;
} Slot;

typedef struct {
    Skim s;
    const uint8_t *actions; /* KINDS of them */
    const uint8_t *files;   /* FILE_BYTES each; of the first `counted` rows are counted, the others kept */
    uint32_t file_count, counted;
    uint32_t *file_slots, file_mask; /* index + 1, 0 for none */
    uint8_t compressed;
    Group *groups;
    size_t group_count, group_room;
    End *ends;
    size_t end_count, end_room;
    Slot *slots;
    size_t slot_mask, slots_used;
    uint8_t *scratch;
} Sift;

static uint32_t mixed(uint32_t a, uint32_t b)
{
    a = (a ^ b * 0x85EBCA6Bu) * 0x9E3779B1u;
    return a ^ a >> 15;
}

static uint32_t file_hash(const uint8_t *file)
{
    return mixed(u32(file + 8), u32(file) + u32(file + 4) * 31);
}

static int index_files(Sift *f)
{
    size_t slots = 16;
    while (slots < 2 * (size_t)f->file_count)
        slots *= 2;
    f->file_slots = calloc(slots, sizeof *f->file_slots);
    if (f->file_slots == NULL)
        return 0;
    f->file_mask = (uint32_t)(slots - 1);
    for (uint32_t i = 0; i < f->file_count; i++) {
        uint32_t at = file_hash(f->files + (size_t)i * FILE_BYTES) & f->file_mask;
        while (f->file_slots[at])
            at = (at + 1) & f->file_mask;
        f->file_slots[at] = i + 1;
    }
    return 1;
}

static uint32_t find_file(const Sift *f, const uint8_t *file)
{
    uint32_t at = file_hash(file) & f->file_mask;
    for (; f->file_slots[at]; at = (at + 1) & f->file_mask) {
        uint32_t index = f->file_slots[at] - 1;
        if (memcmp(f->files + (size_t)index * FILE_BYTES, file, FILE_BYTES) == 0)
            return index;
    }
    return NONE;
}

/* The place of an id; a new one when `make`. NULL: not there, or no memory. */
static Slot *slot_of(Sift *f, uint32_t xid, int make)
{
    if (make && 2 * (f->slots_used + 1) > (f->slots ? f->slot_mask + 1 : 0)) {
        size_t room = f->slots ? 2 * (f->slot_mask + 1) : 1024;
        Slot *more = calloc(room, sizeof *more);
        if (more == NULL) {
            f->s.no_memory = 1;
            return NULL;
        }
        for (size_t i = 0; f->slots && i <= f->slot_mask; i++)
            if (f->slots[i].used) {
                size_t at = mixed(f->slots[i].xid, 0) & (room - 1);
                while (more[at].used)
                    at = (at + 1) & (room - 1);
                more[at] = f->slots[i];
            }
        free(f->slots);
        f->slots = more;
        f->slot_mask = room - 1;
    }
    if (f->slots == NULL)
        return NULL;
    size_t at = mixed(xid, 0) & f->slot_mask;
    for (; f->slots[at].used; at = (at + 1) & f->slot_mask)
        if (f->slots[at].xid == xid)
            return f->slots + at;
    if (!make)
        return NULL;
    f->slots[at].used = 1;
    f->slots[at].xid = xid;
    f->slots[at].head = NONE;
    f->slots_used++;
    return f->slots + at;
}

/* Room for one more; the array, or NULL without memory. */
static void *grown(void *array, size_t count, size_t *room, size_t each)
{
    if (count < *room)
        return array;
    size_t wanted = *room ? *room * 2 : 256;
    void *more = realloc(array, wanted * each);
    if (more != NULL)
        *room = wanted;
    return more;
}

static Group *group_of(Sift *f, uint32_t xid, uint32_t file, uint64_t lsn)
{
    Slot *slot = slot_of(f, xid, 1);
    if (slot == NULL)
        return NULL;
    for (uint32_t i = slot->head; i != NONE; i = f->groups[i].next)
        if (f->groups[i].file == file)
            return f->groups + i;
    Group *groups = f->group_count < NONE ? grown(f->groups, f->group_count, &f->group_room, sizeof *groups) : NULL;
    if (groups == NULL) {
        f->s.no_memory = 1;
        return NULL;
    }
    f->groups = groups;
    Group *group = groups + f->group_count;
    memset(group, 0, sizeof *group);
    group->first = lsn;
    group->xid = xid;
    group->file = file;
    group->end = NONE;
    group->next = slot->head;
    slot->head = (uint32_t)f->group_count++;
    return group;
}

/* What an id does from here on is a new group; `end`: index of its commit or abort, or NONE. */
static void close_groups(Sift *f, uint32_t xid, uint32_t end)
{
    Slot *slot = slot_of(f, xid, 0);
    if (slot == NULL)
        return;
    for (uint32_t i = slot->head; i != NONE; i = f->groups[i].next)
        f->groups[i].end = end;
    slot->head = NONE;
}

/* A body's main data, all of the body being as core/walrecord.py takes it apart; 0 where it is not. */
static int main_data(const uint8_t *body, size_t length, uint8_t compressed, size_t *main_at)
{
    size_t at = 0, payload = 0, main = 0;
    int related = 0;
    while (length - at > payload) {
        uint8_t id = body[at++];
        if (id == 255) {
            if (length - at < 1)
                return 0;
            main = body[at++];
            break;
        }
        if (id == 254) {
            if (length - at < 4)
                return 0;
            main = u32(body + at);
            at += 4;
            break;
        }
        if (id == 253 || id == 252) {
            size_t wide = id == 253 ? 2 : 4;
            if (length - at < wide)
                return 0;
            at += wide;
            continue;
        }
        if (id > BLOCK_ID_MAX || length - at < 3)
            return 0;
        uint8_t flags = body[at];
        payload += u16(body + at + 1);
        at += 3;
        if (flags & HAS_IMAGE) {
            if (length - at < 5)
                return 0;
            payload += u16(body + at);
            uint8_t image = body[at + 4];
            at += 5;
            if ((image & IMAGE_HAS_HOLE) && (image & compressed)) {
                if (length - at < 2)
                    return 0;
                at += 2;
            }
        }
        if (!(flags & SAME_RELATION)) {
            if (length - at < FILE_BYTES)
                return 0;
            at += FILE_BYTES;
            related = 1;
        }
        if (!related || length - at < 4)
            return 0;
        at += 4;
    }
    if (at + payload + main != length)
        return 0;
    *main_at = length - main;
    return 1;
}

/* Copy a body that goes over page borders, all of which were checked. */
static const uint8_t *whole_body(Sift *f, const Record *r)
{
    if (r->total > SCRATCH_MAX)
        return NULL;
    if (f->scratch == NULL && (f->scratch = malloc(SCRATCH_MAX)) == NULL)
        return NULL;
    size_t done = 0, at = r->start;
    for (;;) {
        size_t room = PAGE - at % PAGE;
        size_t piece = r->total - done < room ? r->total - done : room;
        memcpy(f->scratch + done, f->s.data + at, piece);
        done += piece;
        if (done == r->total)
            return f->scratch + RECORD_HEADER;
        at += piece;
        at += header_of(at);
    }
}

/* Count a record of rows. 0: Python is to look at it. */
static int count_rows(Sift *f, const Record *r, int action)
{
    const uint8_t *body = r->head + RECORD_HEADER;
    size_t at = 4;
    if (r->have < 9 || body[0] != 0 || (body[1] & SAME_RELATION))
        return 0;
    if (body[1] & HAS_IMAGE)
        at = (body[8] & IMAGE_HAS_HOLE) && (body[8] & f->compressed) ? 11 : 9;
    if (at + FILE_BYTES > r->have)
        return 0;
    uint32_t file = find_file(f, body + at);
    if (file == NONE)
        return 1;
    if (file >= f->counted)
        return 0;
    if (r->have < r->body && (body = whole_body(f, r)) == NULL)
        return 0;
    size_t main_at;
    if (!main_data(body, r->body, f->compressed, &main_at))
        return 0;
    size_t main = r->body - main_at;
    int64_t inserted = 0, updated = 0, deleted = 0;
    if (action == INSERT)
        inserted = 1;
    else if (action == UPDATE)
        updated = 1;
    else if (action == MULTI_INSERT) {
        if (main < 4)
            return 0;
        inserted = u16(body + main_at + 2);
    } else {
        if (main < 8)
            return 0;
        uint8_t flags = body[main_at + 7];
        if (flags & 0x08) /* a speculative insertion taken back */
            inserted = -1;
        else if (flags & 0x10) /* moved to another partition */
            updated = 1;
        else
            deleted = 1;
    }
    Group *group = group_of(f, u32(r->head + 4), file, f->s.base + r->start);
    if (group == NULL)
        return 0;
    group->last = f->s.base + r->start;
    group->inserted += inserted;
    group->updated += updated;
    group->deleted += deleted;
    return 1;
}

/* Note a commit or abort that tells nothing but its time. 0: Python is to look at it. */
static int note_end(Sift *f, const Record *r, int action)
{
    const uint8_t *body = r->head + RECORD_HEADER;
    size_t have = r->have, at = 0, length;
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
    } else
        return 0;
    if (length != r->body - at || length < 8 || at + 8 > have)
        return 0;
    if (r->kind & HAS_INFO)
        if (length < 12 || at + 12 > have || (u32(body + at + 8) & NOT_BARE))
            return 0;
    End *ends = f->end_count < NONE ? grown(f->ends, f->end_count, &f->end_room, sizeof *ends) : NULL;
    if (ends == NULL) {
        f->s.no_memory = 1;
        return 0;
    }
    f->ends = ends;
    End *end = ends + f->end_count;
    end->lsn = f->s.base + r->start;
    end->time = (int64_t)u64(body + at);
    end->xid = u32(r->head + 4);
    end->committed = action == COMMIT;
    close_groups(f, end->xid, (uint32_t)f->end_count++);
    return 1;
}

static int one_sifted(Sift *f)
{
    Record r;
    if (!read_record(&f->s, &r))
        return 0;
    int action = f->actions[r.kind];
    int done = 1;
    if (action == COMMIT || action == ABORT)
        done = note_end(f, &r, action);
    else if (action >= INSERT && action <= MULTI_INSERT)
        done = count_rows(f, &r, action);
    else if (action != HOP)
        done = 0;
    if (!done) {
        close_groups(f, u32(r.head + 4), NONE);
        keep(&f->s, r.start);
    }
    return pass(&f->s, &r);
}

static void sift(Sift *f)
{
    if (!index_files(f)) {
        f->s.no_memory = 1;
        return;
    }
    if (f->s.at == 0 && !skip_carried(&f->s))
        return;
    while (!f->s.no_memory && one_sifted(f))
        ;
}

/* One member of every element of an array, as bytes. */
static PyObject *column(const void *array, size_t count, size_t each, size_t member, size_t wide)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(count * wide));
    char *to = bytes ? PyBytes_AsString(bytes) : NULL;
    for (size_t i = 0; to != NULL && i < count; i++)
        memcpy(to + i * wide, (const char *)array + i * each + member, wide);
    return bytes;
}

#define GROUPS(member) column(f->groups, f->group_count, sizeof(Group), offsetof(Group, member), sizeof f->groups->member)
#define ENDS(member) column(f->ends, f->end_count, sizeof(End), offsetof(End, member), sizeof f->ends->member)

static PyObject *sifted(const Sift *f)
{
    const Skim *s = &f->s;
    if (s->no_memory)
        return PyErr_NoMemory();
    if (s->records == 0)
        Py_RETURN_NONE;
    PyObject *kept = column(s->kept, s->kept_count, sizeof *s->kept, 0, sizeof *s->kept);
    PyObject *groups = Py_BuildValue("(NNNNNNNN)", GROUPS(xid), GROUPS(file), GROUPS(inserted), GROUPS(updated),
                                     GROUPS(deleted), GROUPS(first), GROUPS(last), GROUPS(end));
    PyObject *ends = Py_BuildValue("(NNNN)", ENDS(lsn), ENDS(xid), ENDS(time), ENDS(committed));
    return Py_BuildValue("(KIKNNN)", (unsigned long long)s->at, (unsigned int)s->timeline,
                         (unsigned long long)s->last, kept, groups, ends);
}

static PyObject *py_sift(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer data, actions, files;
    unsigned long long base, stop, at;
    long long last;
    unsigned int magic, counted, compressed, timeline;
    if (!PyArg_ParseTuple(args, "y*KKIy*y*IIKLI", &data, &base, &stop, &magic, &actions, &files, &counted,
                          &compressed, &at, &last, &timeline))
        return NULL;
    PyObject *result = NULL;
    Sift f;
    memset(&f, 0, sizeof f);
    if (actions.len != KINDS || files.len % FILE_BYTES != 0 || files.len / FILE_BYTES >= 1 << 28) {
        PyErr_SetString(PyExc_ValueError, "a table of actions or files that is none");
        goto out;
    }
    f.s.data = data.buf;
    f.s.size = (size_t)data.len & ~(size_t)(PAGE - 1);
    f.s.base = base;
    f.s.stop = stop > base ? stop - base : 0;
    if (f.s.stop > f.s.size)
        f.s.stop = f.s.size;
    f.s.magic = (uint16_t)magic;
    f.s.crc = CRC_NONE;
    f.s.at = at < f.s.size ? (size_t)at : f.s.size;
    f.s.last = last < 0 ? 0 : (uint64_t)last;
    f.s.any = last >= 0;
    f.s.timeline = timeline;
    f.actions = actions.buf;
    f.files = files.buf;
    f.file_count = (uint32_t)(files.len / FILE_BYTES);
    f.counted = counted;
    f.compressed = (uint8_t)compressed;
    Py_BEGIN_ALLOW_THREADS
    sift(&f);
    Py_END_ALLOW_THREADS
    result = sifted(&f);
    free(f.s.kept);
    free(f.file_slots);
    free(f.groups);
    free(f.ends);
    free(f.slots);
    free(f.scratch);
out:
    PyBuffer_Release(&data);
    PyBuffer_Release(&actions);
    PyBuffer_Release(&files);
    return result;
}

static PyObject *py_crc32c(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer buffer;
    unsigned int crc = 0;
    if (!PyArg_ParseTuple(args, "y*|I", &buffer, &crc))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    crc = ~crc_update(buffer.buf, (size_t)buffer.len, ~crc);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&buffer);
    return PyLong_FromUnsignedLong(crc);
}

static PyMethodDef methods[] = {
    {"crc32c", py_crc32c, METH_VARARGS, "See _walskim.pyi."},
    {"skim", py_skim, METH_VARARGS, "See _walskim.pyi."},
    {"sift", py_sift, METH_VARARGS, "See _walskim.pyi."},
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
