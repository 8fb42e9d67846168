"""Requests whose layout is more than fields in a row."""

import pytest

from virtio.errors import ConfigurationError, ProtocolError
from virtio.spec import can, fs, i2c, iommu, mem, rpmb, sound, spi
from virtio.spec.model import R, W


def test_fs_has_a_variable_part_in_each_direction() -> None:
    readable = fs.REQ.part(R)
    data = readable.pack({"in": {"len": 45, "opcode": 26, "unique": 7}, "datain": b"hello"})
    assert len(data) == 45
    request = readable.unpack(data)
    assert request["in"].opcode == 26
    assert request.datain == b"hello"
    answer = fs.REQ.part(W).unpack(fs.FUSE_OUT_HEADER.pack(len=16, error=-2, unique=7))
    assert answer.out.error == -2
    assert answer.dataout == b""


def test_fs_request_queues_follow_the_notification_queue_only_if_there_is_one() -> None:
    def numbers(features: int) -> list[int]:
        slots = fs.DEVICE.slots(features, {"num_request_queues": 2})
        return [slot.index for slot in slots if slot.queue.method == "requests"]

    assert numbers(0) == [1, 2]
    assert numbers(fs.F.NOTIFICATION) == [2, 3]


def test_can_frames_carry_their_length() -> None:
    data = can.TX_OUT.pack(msg_type=can.MSG.TX, can_id=0x123, sdu=b"\x01\x02\x03")
    assert data == bytes.fromhex("0100 0300 00 00 0000 00000000 23010000 010203".replace(" ", ""))
    assert can.TX_OUT.unpack(data + b"trailing").sdu == b"\x01\x02\x03"
    with pytest.raises(ProtocolError, match=r"5\.20\.5\.2"):
        can.TX_OUT.unpack(data[:-1])


def test_i2c_data_goes_where_the_flag_says() -> None:
    assert [field.name for field in i2c.WRITE_REQ.part(R).fields] == ["out_hdr", "buf"]
    assert [field.name for field in i2c.READ_REQ.part(W).fields] == ["buf", "in_hdr"]
    assert i2c.WRITE_REQ.part(W).size == 1


def test_iommu_status_comes_after_the_properties() -> None:
    writable = iommu.REQ_PROBE.part(W)
    data = b"P" * 512 + iommu.REQ_TAIL.pack(status=iommu.STATUS.NOENT)
    answer = writable.unpack(data)
    assert answer.properties == b"P" * 512
    assert answer.tail.status == iommu.STATUS.NOENT
    assert iommu.REQ_PROBE.part(R).size == 72


def test_iommu_property_type_has_twelve_bits() -> None:
    found = iommu.PROBE_PROPERTY.unpack(b"\x01\xf0\x14\x00")
    assert (found.type.type, found.type.reserved, found.length) == (1, 15, 20)
    with pytest.raises(ConfigurationError):
        iommu.PROBE_PROPERTY.pack(type={"type": 0x1000})


def test_mem_requests_and_responses_have_the_sizes_that_the_standard_states() -> None:
    assert mem.REQ.size == 24
    assert mem.RESP.size == 10
    data = mem.REQ.pack(type=mem.REQ_TYPE.STATE, u={"state": {"addr": 1 << 32, "nb_blocks": 3}})
    request = mem.REQ.unpack(data)
    assert mem.REQ_UNION.view(request.u, "state").nb_blocks == 3
    short = mem.REQ.pack(type=mem.REQ_TYPE.UNPLUG_ALL)
    assert len(short) == 24


def test_rpmb_frames_are_big_endian() -> None:
    assert rpmb.FRAME.size == 512
    frame = rpmb.FRAME.pack(write_counter=0x01020304, req_resp=rpmb.REQ.DATA_WRITE)
    assert frame[500:504] == b"\x01\x02\x03\x04"
    assert frame[-2:] == b"\x00\x03"


def test_sound_control_values_are_one_of_several_things() -> None:
    assert sound.CTL_VALUE.size == 512
    data = sound.CTL_INFO.pack(
        type=sound.CTL_TYPE.INTEGER, value={"integer": {"min": 1, "max": 9, "step": 2}}
    )
    found = sound.CTL_INFO.unpack(data)
    assert sound.CTL_RANGE.view(found.value, "integer").max == 9
    assert len(data) == sound.CTL_INFO.size == 92


def test_sound_metadata_states_its_length_in_bytes() -> None:
    data = sound.CTL_TLV.pack(type=1, value=b"\x01\x00\x00\x00\x02\x00\x00\x00")
    assert sound.CTL_TLV.unpack(data).length == 8
    assert len(data) == 16


def test_spi_transfers_frame_their_data_on_both_sides() -> None:
    assert spi.TRANSFER_REQ.part(R).minimum == 32
    answer = spi.TRANSFER_REQ.part(W).unpack(b"data\x02")
    assert answer.rx_buf == b"data"
    assert answer.result.result == spi.RESULT.TRANS_ERR
