"""Report data without a network, and a work dir with tiny ones."""

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
from export_kit import build, files, photos, save, write_config

from mmpretrain_mobileone_ext.checkpoints.deploy_file import write_deploy_file
from mmpretrain_mobileone_ext.coreml import export_coreml
from mmpretrain_mobileone_ext.coreml.neural_engine.verdict import Shared
from mmpretrain_mobileone_ext.report import (
    Candidate,
    Disagreement,
    Drift,
    FormRow,
    Guess,
    Mistake,
    ParityCheck,
    Provenance,
    ReportData,
)
from mmpretrain_mobileone_ext.report.engine import EngineChip, EngineReport, EngineTime
from mmpretrain_mobileone_ext.report.layers import OperationDrift, WeightRange
from mmpretrain_mobileone_ext.utils.accuracy import Confusion

HOSTILE = '<script>alert("x")</script> & \' onload=" $x_1$'
PNG = bytes.fromhex(
    '89504e470d0a1a0a0000000d4948445200000001000000010800000000'
    '3a7e9b550000000a49444154789c6360000000020001e221bc33000000'
    '0049454e44ae426082'
)


def finish_run(folder):
    """Train nothing, but leave what a training and two exports leave."""
    data = photos(folder / 'data', 3)
    model = build()
    checkpoint = save(model, folder / 'epoch_2.pth')
    save(build(seed=1), folder / 'epoch_1.pth')
    (folder / 'last_checkpoint').write_text('/elsewhere/epoch_2.pth')
    config = write_config(folder / 'tiny.py', data)
    write_deploy_file(model, checkpoint)
    for name, precision in (('model', 'fp16'), ('whole', 'fp32')):
        export_coreml(
            config,
            checkpoint,
            folder / f'{name}.mlpackage',
            precision=precision,
            verify_data='none',
        )
    return folder


def test_images(folder):
    """Paths of the test split, in the data set's order."""
    return files(folder / 'data')


test_images.__test__ = False


def sample(**changes):
    """Report data with something in every part, and hostile names."""
    forms = (
        FormRow(
            'branches (torch, fp32)',
            'torch',
            'epoch_9.pth',
            320_880,
            92.5,
            99.75,
            100.0,
            None,
            262,
            lost=0,
            gained=0,
        ),
        FormRow(
            'folded (torch, fp32)',
            'torch',
            'epoch_9_deploy.pth',
            79_016,
            92.5,
            99.75,
            100.0,
            152.26,
            27,
        ),
        FormRow(
            'Core ML fp16',
            'coreml',
            'model.mlpackage',
            60_465,
            92.5,
            99.75,
            99.75,
            float('inf'),
            26,
            lost=0,
            gained=0,
        ),
        FormRow(
            'Core ML fp16, computed in fp32',
            'check',
            'model.mlpackage',
            60_465,
            92.6,
            99.75,
            100.0,
            77.1,
            26,
            of='Core ML fp16',
        ),
        FormRow(
            f'Core ML {HOSTILE}',
            'coreml',
            'a&b<i>.mlpackage',
            31_002,
            92.25,
            99.5,
            97.5,
            33.3,
            26,
            note=HOSTILE,
            lost=2,
            gained=1,
        ),
    )
    guesses = tuple(
        Guess(f.form, f.short, HOSTILE if i else 'ant', 51.25, i == 0, i > 0)
        for i, f in enumerate(f for f in forms if f.kind != 'check')
    )
    data = ReportData(
        title=HOSTILE,
        forms=forms,
        images='all 400 images of the test split',
        num_images=400,
        reference=forms[0].form,
        disagreements=(Disagreement(17, HOSTILE, guesses, PNG),),
        num_disagreements=10,
        mistakes=(Mistake(3, HOSTILE, HOSTILE, 'ant', 97.25, 1.5, PNG),),
        confusion=Confusion((HOSTILE, 'ant'), ((170, 20), (10, 200))),
        judged='Core ML fp16',
        candidates=(
            Candidate('int8', 41_002, 92.5, 99.5, True, note=HOSTILE),
            Candidate('palettize2', 21_000, 40.25, 41.5, False),
        ),
        kept_fp32=((HOSTILE, '3 values beyond fp16'),),
        drift=(
            Drift(
                'Core ML fp16',
                32,
                (
                    OperationDrift('conv<0>', 'conv', 'fp16', 2e-4, 26.5, 0),
                    OperationDrift('mul_0', 'mul', 'fp16', None, 7e4, 12),
                    OperationDrift('soft', 'softmax', 'fp16', 1e-4, 1.0, 0, 'head · softmax'),
                ),
            ),
        ),
        weight_ranges=(
            WeightRange(HOSTILE, 'conv', (8, 1, 3, 3), True, (), 24.6, 2, 18.25, 41.5, HOSTILE),
            WeightRange('head', 'linear', (3, 32), False, (), 1.5, 0, 40.0, 41.0, ''),
        ),
        parity=(ParityCheck('Core ML fp16', 'export-fp16', 'relative ≤ 0.02', '3.1e-04', True),),
        engine=(
            EngineReport(
                'Core ML fp16',
                (
                    EngineChip('A14', 'good', 'all 26 operations can run', HOSTILE),
                    EngineChip('M1', 'warn', '1 of 26 operations cannot run'),
                ),
                (Shared(HOSTILE, HOSTILE, '', 1, {'measured': ['M1']}),),
                (Shared('linear', 'tiles', HOSTILE, 2, {'measured': ['M1']}),),
                (HOSTILE,),
                (EngineTime('A14', HOSTILE, 0.5, 0.4, 0.6), EngineTime('M1', 'M1: no estimate')),
            ),
            EngineReport(f'Core ML {HOSTILE}', (EngineChip('A14', 'bad', 'none of 26'),)),
        ),
        warnings=(HOSTILE,),
        provenance=Provenance(
            command=HOSTILE,
            created='2026-01-02T03:04:05+00:00',
            config='tiny.py',
            config_text=HOSTILE,
            files=(('epoch_9.pth', 'ab' * 32),),
            versions={'torch': '2.9'},
            machine='a machine',
            preprocessing='1. resize',
            inputs=('image: image, RGB, 1 x 3 x 32 x 32',),
            outputs=('classLabel: string',),
        ),
    )
    return replace(data, **changes)


def bare(**changes):
    """Report data with one form and nothing else measured."""
    data = ReportData('one', (FormRow('Core ML fp16'),), 'noise', 16)
    return replace(data, **changes)


class Page(HTMLParser):
    """A page as elements: tag, attributes and the text inside."""

    VOID = frozenset({'meta', 'img', 'br', 'link', 'input', 'use', 'path'})

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self._open, self.unbalanced = [], [], []
        self.declaration = None
        self.feed(text)
        self.close()
        self.unbalanced += [e['tag'] for e in self._open]

    def handle_decl(self, decl):
        self.declaration = decl

    def handle_starttag(self, tag, attrs):
        element = dict(tag=tag, attrs=dict(attrs), text='')
        self.elements.append(element)
        if tag not in self.VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append(dict(tag=tag, attrs=dict(attrs), text=''))

    def handle_endtag(self, tag):
        if tag in self.VOID:
            return
        if not self._open or self._open[-1]['tag'] != tag:
            self.unbalanced.append(tag)
            return
        self._open.pop()

    def handle_data(self, data):
        for element in self._open:
            element['text'] += data

    def all(self, tag, **attrs):
        """Elements of a tag with these attributes."""
        return [
            e
            for e in self.elements
            if e['tag'] == tag and all(e['attrs'].get(k) == v for k, v in attrs.items())
        ]

    def rows(self, caption):
        """Cell texts of every row of the table whose caption, or words above it, start so."""
        at = next(
            i
            for i, e in enumerate(self.elements)
            if (e['tag'] == 'caption' or e['attrs'].get('id') == 'matrix')
            and e['text'].split()[:1] == caption.split()[:1]
        )
        rows = []
        for element in self.elements[at:]:
            if element['tag'] == 'table' and rows:
                break
            if element['tag'] == 'tr':
                rows.append([])
            if element['tag'] in ('td', 'th') and rows:
                rows[-1].append(' '.join(element['text'].split()))
        return rows


def top1_of(probabilities, labels):
    """Percent, with NumPy."""
    return 100 * float(np.mean(np.argmax(probabilities, 1) == labels))
