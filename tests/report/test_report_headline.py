"""The recommended form and the sentence about it."""

import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from report_kit import bare, sample

from mmpretrain_mobileone_ext.report import Candidate, FormRow, ParityCheck, ReportData
from mmpretrain_mobileone_ext.report.page import headline, recommended
from mmpretrain_mobileone_ext.utils.accuracy import Loss, Verdict

IMAGES = 10_000
REFERENCE = FormRow(
    'branches (torch, fp32)', 'torch', 'a.pth', 4000, 90.0, None, 100.0, lost=0, gained=0
)


def data(*forms, **changes):
    return ReportData(
        'title', (REFERENCE, *forms), 'all images', IMAGES, reference=REFERENCE.form, **changes
    )


def form(name, size, top1, agreement=99.5, kind='coreml'):
    # Without labels, the network's count.
    lost = 90.0 - top1 if top1 is not None else 100 - agreement
    lost = round(lost / 100 * IMAGES)
    return FormRow(
        name,
        kind,
        f'{name}.mlpackage',
        size,
        top1,
        None,
        agreement,
        lost=max(lost, 0),
        gained=max(-lost, 0),
    )


def test_the_smallest_within_the_bound_is_recommended():
    found = data(form('fp16', 2000, 90.0), form('int8', 1000, 89.5), form('palettize2', 500, 89.4))
    assert recommended(found).form == 'int8'
    assert recommended(replace(found, max_drop=0.7)).form == 'palettize2'
    assert recommended(replace(found, max_drop=0.2)).form == 'fp16'


@given(
    st.lists(st.tuples(st.integers(1, 999), st.integers(8000, 9500)), min_size=1, max_size=8),
    st.integers(0, 300),
)
def test_it_is_what_a_search_over_all_finds(forms, bound):
    rows = [form(f'f{i}', size, top1 / 100) for i, (size, top1) in enumerate(forms)]
    best = recommended(data(*rows, max_drop=bound / 100))
    within = [r for r in rows if 9000 - round(100 * r.top1) <= bound]
    if within:
        assert best in within
        assert best.size_bytes == min(r.size_bytes for r in within)
    else:
        assert best.top1 == max(r.top1 for r in rows)


def test_the_choice_of_an_export_wins():
    found = data(form('fp16', 2000, 90.0), form('int8', 1000, 90.0), chosen='fp16')
    assert recommended(found).form == 'fp16'
    assert 'chosen by the export' in headline(found).detail


def test_torch_and_checks_are_never_recommended():
    found = data(form('check', 1, 90.0, kind='check'), form('folded', 2, 90.0, kind='torch'))
    verdict = headline(found)
    assert recommended(found) is None
    assert (verdict.level, verdict.form) == ('warn', None)
    assert 'No Core ML file' in verdict.sentence


def test_gain_loss_and_failure_are_said():
    kept = headline(data(form('fp16', 2048, 90.25)))
    assert kept.level == 'good'
    assert 'keeps the accuracy: 90.25' in kept.detail
    assert '2 KiB' in kept.detail.replace('\u00a0', ' ')
    lost = headline(data(form('fp16', 2048, 89.75)))
    assert lost.level == 'good'
    assert 'gives up 0.25 points' in lost.detail
    bad = headline(data(form('fp16', 2048, 80.0)))
    assert bad.level == 'bad'
    assert 'loses 10.00' in bad.sentence


def test_accuracy_comes_first_where_nobody_asked_for_a_bound():
    row = replace(form('fp16', 2048, 90.0), top1=100 * 14 / 15, lost=0, gained=0, agreement=100.0)
    page = replace(data(row), num_images=15)
    found = headline(page)
    said = found.sentence.replace('\u00a0', ' ')
    # Wilson's interval of 14 of 15.
    assert said == '14 of 15 test images right (93.3 %), 95 % interval 70.2 to 98.8 %'
    assert found.detail.startswith('15 images are too few to hold fp16.mlpackage to 0.5 points')
    assert headline(replace(page, max_drop=2.0)).sentence.startswith('15 images are too few')


def test_the_only_core_ml_file_is_no_choice():
    assert 'smallest' not in headline(data(form('fp16', 2000, 90.0))).detail
    both = data(form('fp16', 2000, 90.0), form('int8', 1000, 90.0))
    assert 'int8, the smallest Core ML file that loses at most 0.5 points' in headline(both).detail
    worse = data(form('fp16', 2000, 80.0), form('int8', 1000, 70.0))
    assert 'fp16, the Core ML file that loses least' in headline(worse).detail


def test_without_labels_agreement_counts():
    reference = replace(REFERENCE, top1=None)
    forms = (reference, form('fp16', 2000, None, 99.8), form('int8', 900, None, 98.0))
    found = replace(data(), forms=forms)
    assert recommended(found).form == 'fp16'
    assert 'like the network on 99.80' in headline(found).sentence


def test_a_bound_that_is_not_met_warns():
    check = ParityCheck('fp16', 'export-fp16', '', '', False)
    fine = data(form('fp16', 2000, 90.0))
    assert headline(fine).level == 'good'
    assert headline(replace(fine, parity=(check,))).level == 'warn'
    assert headline(replace(fine, warnings=('look',))).level == 'warn'


def test_tiles_compare_with_the_reference():
    row = replace(form('int8', 1000, 89.75), top1_low=89.1, top1_high=90.3)
    tiles = {t.label: t for t in headline(data(row)).tiles}
    assert tiles['top-1'].beside.endswith('89.1 to 90.3')
    lost = tiles['points lost']
    assert lost.value == '0.25'
    assert re.search(r'0\.1\d to 0\.3\d, bound 0\.5$', lost.beside)
    assert tiles['size'].beside.startswith('4.0')
    assert tiles['same label'].value.startswith('99.50')
    assert tiles['same label'].beside == '50 of 10000 differ'


def test_a_single_form_that_was_not_scored_has_a_headline():
    assert headline(bare()).level == 'warn'
    assert headline(sample()).level == 'warn'  # it has a warning


def judged(lost, gained, images, bound, changed, **more):
    """A page on a file that an export chose, with its verdict."""
    row = replace(
        form('small', 2048, 90.0 - 100 * (lost - gained) / images),
        lost=lost,
        gained=gained,
        agreement=100 - 100 * changed / images,
    )
    found = Verdict(Loss(lost, gained, images), bound, 'max-drop', changed, **more)
    return headline(
        replace(
            data(row),
            num_images=images,
            chosen='small',
            max_drop=bound,
            accuracy=found,
            candidates=(Candidate('int8', 9, 90.0, 99.0, True),),
        )
    )


def test_green_only_where_the_whole_interval_is_within_the_bound():
    assert judged(0, 0, 10_000, 0.5, 0).level == 'good'
    few = judged(0, 0, 540, 0.5, 0)
    assert few.level == 'warn'
    assert '540 images are too few' in few.sentence
    assert 'up to 0.71 cannot be excluded' in few.sentence
    assert '1 image = 0.19 points' in few.detail
    assert judged(28, 0, 540, 5.0, 28).level == 'bad'


def test_five_of_56_changed_labels_do_not_keep_the_accuracy():
    found = judged(2, 2, 56, 2.0, 5)
    assert found.level == 'warn'
    assert 'keeps' not in found.sentence
    assert 'changes 5 of 56 labels' in found.sentence
    assert 'which flatters it' in found.detail


def test_a_file_that_fails_on_other_images_is_told():
    found = judged(5, 0, 270, 0.5, 5, judged_apart=True)
    assert found.level == 'bad'
    assert 'loses 1.85 points on other 270 images' in found.sentence
    assert 'judged on the other 270' in found.detail


def test_the_bound_of_an_export_is_that_of_its_page():
    """Accepted at 5 points, a file is not red for losing 1.79."""
    found = judged(1, 0, 56, 5.0, 1)
    assert found.level == 'warn'
    assert 'to 5 points' in found.sentence
    assert not any('0.5' in t.beside for t in found.tiles if t.label == 'points lost')
