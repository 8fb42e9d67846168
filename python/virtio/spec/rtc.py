"""RTC Device (5.23)."""

from __future__ import annotations

from virtio.spec.model import (
    V1_4,
    Code,
    Codes,
    DeviceType,
    Feature,
    Features,
    Field,
    Queue,
    Struct,
    W,
    le16,
    le64,
    u8,
)

# fmt: off
F = Features(
    "VIRTIO_RTC_F_",
    Feature(0, "VIRTIO_RTC_F_ALARM", V1_4, "5.23.3", "some of the clocks can wake the driver"),
)

REQ_HEAD = Struct("virtio_rtc_req_head", "5.23.6", (
    Field("msg_type", le16, "VIRTIO_RTC_REQ_*"),
    Field("reserved", u8[6], "zero"),
), since=V1_4, doc="starts every request")
RESP_HEAD = Struct("virtio_rtc_resp_head", "5.23.6", (
    Field("status", u8, "VIRTIO_RTC_S_*", access=W),
    Field("reserved", u8[7], "zero", access=W),
), since=V1_4, doc="starts every response")
REQ_CFG = Struct("virtio_rtc_req_cfg", "5.23.6.4", (
    Field("head", REQ_HEAD, "header"),
), since=V1_4, doc="how many clocks are there?")
RESP_CFG = Struct("virtio_rtc_resp_cfg", "5.23.6.4", (
    Field("head", RESP_HEAD, "header", access=W),
    Field("num_clocks", le16, "clocks are numbered from 0 to one less than this", access=W),
    Field("reserved", u8[6], "zero", access=W),
), since=V1_4, doc="the number of clocks")
REQ_CLOCK_CAP = Struct("virtio_rtc_req_clock_cap", "5.23.6.4", (
    Field("head", REQ_HEAD, "header"),
    Field("clock_id", le16, "the clock"),
    Field("reserved", u8[6], "zero"),
), since=V1_4, doc="what can a clock do?")
RESP_CLOCK_CAP = Struct("virtio_rtc_resp_clock_cap", "5.23.6.4", (
    Field("head", RESP_HEAD, "header", access=W),
    Field("type", u8, "VIRTIO_RTC_CLOCK_*", access=W),
    Field("leap_second_smearing", u8, "VIRTIO_RTC_SMEAR_*", access=W),
    Field("flags", u8, "VIRTIO_RTC_FLAG_ALARM_CAP", access=W),
    Field("reserved", u8[5], "zero", access=W),
), since=V1_4, doc="what a clock can do")
REQ_CROSS_CAP = Struct("virtio_rtc_req_cross_cap", "5.23.6.4", (
    Field("head", REQ_HEAD, "header"),
    Field("clock_id", le16, "the clock"),
    Field("hw_counter", u8, "VIRTIO_RTC_COUNTER_*"),
    Field("reserved", u8[5], "zero"),
), since=V1_4, doc="can a clock be read together with a hardware counter?")
RESP_CROSS_CAP = Struct("virtio_rtc_resp_cross_cap", "5.23.6.4", (
    Field("head", RESP_HEAD, "header", access=W),
    Field("flags", u8, "VIRTIO_RTC_FLAG_CROSS_CAP", access=W),
    Field("reserved", u8[7], "zero", access=W),
), since=V1_4, doc="whether it can")
REQ_READ = Struct("virtio_rtc_req_read", "5.23.6.5", (
    Field("head", REQ_HEAD, "header"),
    Field("clock_id", le16, "the clock"),
    Field("reserved", u8[6], "zero"),
), since=V1_4, doc="read a clock")
RESP_READ = Struct("virtio_rtc_resp_read", "5.23.6.5", (
    Field("head", RESP_HEAD, "header", access=W),
    Field("clock_reading", le64, "nanoseconds since the epoch of the clock", access=W),
), since=V1_4, doc="the time")
REQ_READ_CROSS = Struct("virtio_rtc_req_read_cross", "5.23.6.5", (
    Field("head", REQ_HEAD, "header"),
    Field("clock_id", le16, "the clock"),
    Field("hw_counter", u8, "VIRTIO_RTC_COUNTER_*"),
    Field("reserved", u8[5], "zero"),
), since=V1_4, doc="read a clock together with a hardware counter")
RESP_READ_CROSS = Struct("virtio_rtc_resp_read_cross", "5.23.6.5", (
    Field("head", RESP_HEAD, "header", access=W),
    Field("clock_reading", le64, "nanoseconds since the epoch of the clock", access=W),
    Field("counter_cycles", le64, "the counter at that moment, as the driver would have read it", access=W),
), since=V1_4, doc="the time, and what the driver's counter showed then")
REQ_READ_ALARM = Struct("virtio_rtc_req_read_alarm", "5.23.6.6.2", (
    Field("head", REQ_HEAD, "header"),
    Field("clock_id", le16, "the clock"),
    Field("reserved", u8[6], "zero"),
), since=V1_4, doc="read the alarm of a clock")
RESP_READ_ALARM = Struct("virtio_rtc_resp_read_alarm", "5.23.6.6.2", (
    Field("head", RESP_HEAD, "header", access=W),
    Field("alarm_time", le64, "nanoseconds since the epoch of the clock", access=W),
    Field("flags", u8, "VIRTIO_RTC_FLAG_ALARM_ENABLED", access=W),
    Field("reserved", u8[7], "zero", access=W),
), since=V1_4, doc="the alarm of a clock")
REQ_SET_ALARM = Struct("virtio_rtc_req_set_alarm", "5.23.6.6.2", (
    Field("head", REQ_HEAD, "header"),
    Field("alarm_time", le64, "nanoseconds since the epoch of the clock"),
    Field("clock_id", le16, "the clock"),
    Field("flags", u8, "VIRTIO_RTC_FLAG_ALARM_ENABLED"),
    Field("reserved", u8[5], "zero"),
), since=V1_4, doc="set, and enable or disable, the alarm of a clock")
RESP_SET_ALARM = Struct("virtio_rtc_resp_set_alarm", "5.23.6.6.2", (
    Field("head", RESP_HEAD, "header", access=W),
), since=V1_4, doc="the alarm was set")
REQ_SET_ALARM_ENABLED = Struct("virtio_rtc_req_set_alarm_enabled", "5.23.6.6.2", (
    Field("head", REQ_HEAD, "header"),
    Field("clock_id", le16, "the clock"),
    Field("flags", u8, "VIRTIO_RTC_FLAG_ALARM_ENABLED"),
    Field("reserved", u8[5], "zero"),
), since=V1_4, doc="enable or disable the alarm of a clock")
RESP_SET_ALARM_ENABLED = Struct("virtio_rtc_resp_set_alarm_enabled", "5.23.6.6.2", (
    Field("head", RESP_HEAD, "header", access=W),
), since=V1_4, doc="the alarm was enabled or disabled")
NOTIF_HEAD = Struct("virtio_rtc_notif_head", "5.23.6.6.3", (
    Field("msg_type", le16, "VIRTIO_RTC_NOTIF_*", access=W),
    Field("reserved", u8[6], "zero", access=W),
), since=V1_4, doc="starts every notification")
NOTIF_ALARM = Struct("virtio_rtc_notif_alarm", "5.23.6.6.3", (
    Field("head", NOTIF_HEAD, "header", access=W),
    Field("clock_id", le16, "the clock", access=W),
    Field("reserved", u8[6], "zero", access=W),
), since=V1_4, doc="an alarm has expired")
REQ = Codes(
    "request type", "VIRTIO_RTC_REQ_", "5.23.6",
    Code(0x0001, "VIRTIO_RTC_REQ_READ", "read a clock"),
    Code(0x0002, "VIRTIO_RTC_REQ_READ_CROSS", "read a clock together with a hardware counter"),
    Code(0x1000, "VIRTIO_RTC_REQ_CFG", "number of clocks"),
    Code(0x1001, "VIRTIO_RTC_REQ_CLOCK_CAP", "what a clock can do"),
    Code(0x1002, "VIRTIO_RTC_REQ_CROSS_CAP", "whether READ_CROSS works for a clock and a counter"),
    Code(0x1003, "VIRTIO_RTC_REQ_READ_ALARM", "read an alarm"),
    Code(0x1004, "VIRTIO_RTC_REQ_SET_ALARM", "set an alarm"),
    Code(0x1005, "VIRTIO_RTC_REQ_SET_ALARM_ENABLED", "enable or disable an alarm"),
    since=V1_4,
)
NOTIF = Codes(
    "notification type", "VIRTIO_RTC_NOTIF_", "5.23.6.6.3",
    Code(0x2000, "VIRTIO_RTC_NOTIF_ALARM", "an alarm has expired"),
    since=V1_4,
)
STATUS = Codes(
    "request status", "VIRTIO_RTC_S_", "5.23.6",
    Code(0, "VIRTIO_RTC_S_OK", "done"),
    Code(2, "VIRTIO_RTC_S_EOPNOTSUPP", "not implemented, or an unknown message type or counter"),
    Code(3, "VIRTIO_RTC_S_ENODEV", "there is no such clock, or it has no alarm"),
    Code(4, "VIRTIO_RTC_S_EINVAL", "values that are not allowed, or a buffer that is too small"),
    Code(5, "VIRTIO_RTC_S_EIO", "an error that the driver did not cause"),
    since=V1_4,
)
# 0xF0 to 0xFF are for experiments, as are those of the counters, and smearing variants from 0xF0.
CLOCK = Codes(
    "clock type", "VIRTIO_RTC_CLOCK_", "5.23.6.3.1",
    Code(0, "VIRTIO_RTC_CLOCK_UTC", "UTC since 1970, stepping at leap seconds"),
    Code(1, "VIRTIO_RTC_CLOCK_TAI", "TAI since 1970"),
    Code(2, "VIRTIO_RTC_CLOCK_MONOTONIC", "SI seconds since some moment not after the reset"),
    Code(3, "VIRTIO_RTC_CLOCK_UTC_SMEARED", "UTC since 1970, smearing leap seconds in a known way"),
    Code(4, "VIRTIO_RTC_CLOCK_UTC_MAYBE_SMEARED", "UTC since 1970, perhaps smearing leap seconds"),
    since=V1_4,
)
SMEAR = Codes(
    "way of smearing", "VIRTIO_RTC_SMEAR_", "5.23.6.3.2",
    Code(0, "VIRTIO_RTC_SMEAR_UNSPECIFIED", "not said"),
    Code(1, "VIRTIO_RTC_SMEAR_NOON_LINEAR", "evenly from noon before to noon after"),
    Code(2, "VIRTIO_RTC_SMEAR_UTC_SLS", "evenly over the last 1000 seconds of the day, as UTC-SLS proposes"),
    since=V1_4,
)
COUNTER = Codes(
    "hardware counter", "VIRTIO_RTC_COUNTER_", "5.23.6.3.3",
    Code(0, "VIRTIO_RTC_COUNTER_ARM_VCT", "CNTVCT_EL0 of Arm's generic timer"),
    Code(1, "VIRTIO_RTC_COUNTER_X86_TSC", "the time-stamp counter of x86"),
    Code(0xFF, "VIRTIO_RTC_COUNTER_INVALID", "no counter"),
    since=V1_4,
)
CLOCK_FLAGS = Codes(
    "flag of CLOCK_CAP", "VIRTIO_RTC_FLAG_", "5.23.6.4",
    Code(1, "VIRTIO_RTC_FLAG_ALARM_CAP", "the clock has an alarm"),
    since=V1_4, flags=True,
)
CROSS_FLAGS = Codes(
    "flag of CROSS_CAP", "VIRTIO_RTC_FLAG_", "5.23.6.4",
    Code(1, "VIRTIO_RTC_FLAG_CROSS_CAP", "READ_CROSS works for this clock and counter"),
    since=V1_4, flags=True,
)
ALARM_FLAGS = Codes(
    "flag of an alarm", "VIRTIO_RTC_FLAG_", "5.23.6.6.2",
    Code(1, "VIRTIO_RTC_FLAG_ALARM_ENABLED", "the alarm is enabled"),
    since=V1_4, flags=True,
)
# fmt: on

DEVICE = DeviceType(
    id=17,
    name="rtc",
    title="RTC Device",
    section="5.23",
    since=V1_4,
    doc="tells the time by several clocks, and wakes the driver",
    features=F,
    queues=(
        Queue(0, "requestq", "requests", "5.23.6", "requests of the driver", since=V1_4),
        Queue(
            1,
            "alarmq",
            "alarms",
            "5.23.6.6.3",
            "buffers that the device fills when an alarm expires",
            "VIRTIO_RTC_F_ALARM",
            since=V1_4,
        ),
    ),
    structs=(
        REQ_HEAD,
        RESP_HEAD,
        REQ_CFG,
        RESP_CFG,
        REQ_CLOCK_CAP,
        RESP_CLOCK_CAP,
        REQ_CROSS_CAP,
        RESP_CROSS_CAP,
        REQ_READ,
        RESP_READ,
        REQ_READ_CROSS,
        RESP_READ_CROSS,
        REQ_READ_ALARM,
        RESP_READ_ALARM,
        REQ_SET_ALARM,
        RESP_SET_ALARM,
        REQ_SET_ALARM_ENABLED,
        RESP_SET_ALARM_ENABLED,
        NOTIF_HEAD,
        NOTIF_ALARM,
    ),
    codes=(REQ, NOTIF, STATUS, CLOCK, SMEAR, COUNTER, CLOCK_FLAGS, CROSS_FLAGS, ALARM_FLAGS),
)
