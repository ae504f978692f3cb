"""The recommended form and the sentence about it."""
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from report_kit import bare, sample

from mmpretrain_mobileone_ext.report import FormRow, ParityCheck, ReportData
from mmpretrain_mobileone_ext.report.headline import headline, recommended

REFERENCE = FormRow('branches (torch, fp32)', 'torch', 'a.pth', 4000, 90.0,
                    None, 100.0)


def data(*forms, **changes):
    return ReportData('title', (REFERENCE, *forms), 'all 10 images', 10,
                      reference=REFERENCE.form, **changes)


def form(name, size, top1, agreement=99.0, kind='coreml'):
    return FormRow(name, kind, f'{name}.mlpackage', size, top1, None,
                   agreement)


def test_the_smallest_within_the_bound_is_recommended():
    found = data(form('fp16', 2000, 90.0), form('int8', 1000, 89.5),
                 form('palettize2', 500, 89.4))
    assert recommended(found).form == 'int8'
    assert recommended(replace(found, max_drop=0.7)).form == 'palettize2'
    assert recommended(replace(found, max_drop=0.2)).form == 'fp16'


@given(st.lists(st.tuples(st.integers(1, 999), st.integers(8000, 9500)),
                min_size=1, max_size=8), st.integers(0, 300))
def test_it_is_what_a_search_over_all_finds(forms, bound):
    rows = [form(f'f{i}', size, top1 / 100)
            for i, (size, top1) in enumerate(forms)]
    best = recommended(data(*rows, max_drop=bound / 100))
    within = [r for r in rows if 9000 - round(100 * r.top1) <= bound]
    if within:
        assert best in within
        assert best.size_bytes == min(r.size_bytes for r in within)
    else:
        assert best.top1 == max(r.top1 for r in rows)


def test_the_choice_of_an_export_wins():
    found = data(form('fp16', 2000, 90.0), form('int8', 1000, 90.0),
                 chosen='fp16')
    assert recommended(found).form == 'fp16'
    assert 'chosen by the export' in headline(found).detail


def test_torch_and_checks_are_never_recommended():
    found = data(form('check', 1, 90.0, kind='check'),
                 form('folded', 2, 90.0, kind='torch'))
    verdict = headline(found)
    assert recommended(found) is None
    assert (verdict.level, verdict.form) == ('warn', None)
    assert 'No Core ML file' in verdict.sentence


def test_gain_loss_and_failure_are_said():
    kept = headline(data(form('fp16', 2048, 90.25)))
    assert kept.level == 'good'
    assert 'keeps the accuracy: 90.25' in kept.sentence
    assert '2 KiB' in kept.sentence.replace('\u00a0', ' ')
    lost = headline(data(form('fp16', 2048, 89.75)))
    assert lost.level == 'good'
    assert 'gives up 0.25 points' in lost.sentence
    bad = headline(data(form('fp16', 2048, 80.0)))
    assert bad.level == 'bad'
    assert 'loses 10.00' in bad.sentence


def test_without_labels_agreement_counts():
    reference = replace(REFERENCE, top1=None)
    forms = (reference, form('fp16', 2000, None, 99.8),
             form('int8', 900, None, 98.0))
    found = replace(data(), forms=forms)
    assert recommended(found).form == 'fp16'
    assert 'like the network on 99.80' in headline(found).sentence


def test_a_bound_that_is_not_met_warns():
    check = ParityCheck('fp16', 'export-fp16', '', '', False)
    fine = data(form('fp16', 2000, 90.0))
    assert headline(fine).level == 'good'
    assert headline(replace(fine, parity=(check, ))).level == 'warn'
    assert headline(replace(fine, warnings=('look', ))).level == 'warn'


def test_tiles_compare_with_the_reference():
    tiles = {t.label: t for t in headline(
        data(form('int8', 1000, 89.75))).tiles}
    assert tiles['top-1'].beside == '\u22120.25 points'
    assert tiles['size'].beside.startswith('4.0')
    assert tiles['same label'].value.startswith('99.00')


def test_a_single_form_that_was_not_scored_has_a_headline():
    assert headline(bare()).level == 'warn'
    assert headline(sample()).level == 'warn'  # it has a warning
